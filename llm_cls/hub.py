"""Pretrained files from the package itself, a local folder, or the Hugging Face hub."""

import errno
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import requests
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError

from llm_cls.errors import ArtifactError, ConfigError, first_line, lacks_memory
from llm_cls.files import sha256_file, sha256_json

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")  # such as "gpt2"
_DESCRIPTIONS = ("config.json", "tokenizer_config.json")  # a model has one of them at least
_OF_DAMAGED_FILES = (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
SHIPPED = {"ja-mini": Path(__file__).parent / "assets" / "ja_mini"}


def source_name(name: str) -> str:
    """The argument of ``from_pretrained`` for ``name``: the folder of a shipped model, otherwise ``name`` itself."""
    return str(SHIPPED.get(name, name))


def is_local(name: str) -> bool:
    """Whether ``name`` is shipped or a local folder."""
    return name in SHIPPED or Path(name).is_dir()


@functools.cache
def hub_is_reachable() -> bool:
    """Whether the hub answers, tried once per process: the client of the hub itself retries each file for a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    for seconds in (5, 20):  # the second attempt is for slow networks
        try:
            requests.head(constants.ENDPOINT, timeout=seconds)
        except requests.RequestException:
            continue
        return True
    return False


def only_local(name: str) -> bool:
    """The value of ``local_files_only`` with which ``name`` is loaded."""
    return is_local(name) or not hub_is_reachable()


@contextmanager
def hub_errors(name: str, key: str) -> Iterator[None]:
    """Turns the errors of a model that could not be loaded into one line.

    Raises:
        ConfigError: ``name``, the value of ``key``, is unknown, not cached, or not a model, or needs a package or
            permission to run its code.
        ArtifactError: The weights are damaged.
    """
    try:
        yield
    except ImportError as error:  # a quantized checkpoint, or code in the repository, needs it
        raise ConfigError(
            f"{key}: {name!r} needs a package that is missing: {first_line(error).rstrip('.')}. Install it, or choose "
            "a checkpoint that does without"
        ) from None
    except SafetensorError as error:
        raise _damaged(name, key, first_line(error)) from None
    except (UnpicklingError, EOFError):  # PyTorch's advice to load it without care is not passed on
        raise _damaged(name, key, "a .bin file is empty or overwritten") from None
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        # transformers wraps it in an OSError, which does not tell whether the hub has answered
        if isinstance(error, RepositoryNotFoundError) or isinstance(error.__cause__, RepositoryNotFoundError):
            raise ConfigError(f"{key}: the hub has no model {name!r}, or it is private. Check the id") from None
        reason = first_line(error)
        if isinstance(error, OSError) and error.errno == errno.EINVAL:  # PyTorch's files are read from their end
            raise _damaged(name, key, "a .bin file is cut off") from None
        if "custom code" in reason:
            raise ConfigError(
                f"{key}: {name!r} has code of its own, which runs only where it is allowed. Add "
                "model.trust_remote_code=true if you trust it"
            ) from None
        if "does not recognize this architecture" in reason:
            raise ConfigError(
                f"{key}: the installed transformers does not know the architecture of {name!r}. Install a newer one, "
                "or choose another model"
            ) from None
        if is_local(name) or not _HUB_ID.fullmatch(name):
            raise ConfigError(
                f"{key}: {name!r} could not be loaded as a model folder or hub id: {reason.rstrip('.')}. Check the path"
            ) from None
        raise ConfigError(
            f"{key}: {name!r} is not in the local cache and could not be downloaded from the hub. Run "
            f"`hf download {name}` where there is a network (HF_HOME is the folder of the cache), or give a "
            f"local folder: model=hf model.name=FOLDER"
        ) from None
    except Exception as error:  # the libraries check their files little
        if isinstance(error, RuntimeError) and "PytorchStreamReader" in str(error):
            raise _damaged(name, key, "a .bin file is cut off") from None
        # Some quantized checkpoints need a GPU.
        if isinstance(error, RuntimeError) and "GPU" in str(error) and not lacks_memory(error):
            raise ConfigError(f"{key}: {name!r} needs a GPU: {first_line(error)} Choose another checkpoint") from None
        if type(error) is Exception or isinstance(error, _OF_DAMAGED_FILES):
            raise ArtifactError(
                f"{key}: the files of {name!r} are damaged: {type(error).__name__}: {first_line(error)}. "
                "Restore them, or download the model again"
            ) from None
        raise


def _damaged(name: str, key: str, reason: str) -> ArtifactError:
    return ArtifactError(f"{key}: the weights of {name!r} are damaged: {reason}. Download the model again")


def local_file(name: str, file: str, revision: str | None = None, key: str = "model.name") -> Path | None:
    """The local path of one file of ``name``, the value of ``key``; None if there is no such file.

    Without a network, a file that is not in the cache counts as missing where the model itself is there: `hf download`
    leaves no mark of what there is not.

    Raises:
        ConfigError: The hub could not be reached and nothing is cached.
    """
    if is_local(name):
        path = Path(source_name(name)) / file
        return path if path.is_file() else None
    with hub_errors(name, key):
        cached = try_to_load_from_cache(name, file, revision=revision) if "/" in name else None
        if isinstance(cached, str):
            return Path(cached)
        try:
            return Path(hf_hub_download(name, file, revision=revision, local_files_only=only_local(name)))
        except LocalEntryNotFoundError:
            if any(isinstance(try_to_load_from_cache(name, known, revision=revision), str) for known in _DESCRIPTIONS):
                return None
            raise
        except EntryNotFoundError:
            return None


def content_revision(folder: Path) -> str:
    """The revision of a local folder: "sha256:" and the hash over its weights, configuration and code."""
    files = sorted(
        path
        for pattern in ("*.safetensors", "*.bin", "config.json", "*.py")
        for path in folder.glob(pattern)
        if path.is_file()
    )
    return "sha256:" + sha256_json([[path.name, sha256_file(path)] for path in files])
