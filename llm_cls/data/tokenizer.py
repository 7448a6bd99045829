"""Tokenizers that neither add special tokens nor recognise them in a text.

A literal ``</s>`` in an article is text. BOS and EOS are added in ``tokens.py``, each at most once,
because decoders differ in whether their tokenizer adds them.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer

from llm_cls.config.schema import ModelConfig
from llm_cls.errors import ConfigError, first_line
from llm_cls.files import sha256_json
from llm_cls.hub import hub_errors, local_file, only_local, source_name

log = logging.getLogger(__name__)

# transformers 5 loads rinna's files as a T5Tokenizer: a fixed unk id, no byte fallback, newlines lost.
_SENTENCEPIECE_FILES = ("spiece.model", "tokenizer.model")
_MISREAD_CLASSES = ("T5Tokenizer", "T5TokenizerFast")
# It reads every model of these classes as one of byte pairs, and gives a unigram model other ids.
_BYTE_PAIR_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")


class Tokenizer(Protocol):
    """The interface of a tokenizer.

    Attributes:
        eos_id: Id that ends every text.
        prefix: Ids that start every text, such as BOS; often none.
        fingerprint: Hex sha256 that changes with anything that could change an id.
    """

    eos_id: int
    prefix: tuple[int, ...]
    fingerprint: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""
        ...

    def piece(self, token: int) -> str:
        """What an id stands for, to be shown to people."""
        ...

    def save(self, directory: Path) -> None:
        """Writes the files from which ``load_tokenizer`` restores this tokenizer."""
        ...


class SentencePieceTokenizer:
    """A SentencePiece model file, used through the ``sentencepiece`` library itself."""

    def __init__(self, model_file: Path, add_bos: bool | None = None) -> None:
        """Loads ``model_file``; texts start with its BOS only where ``add_bos`` is true."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"{model_file} is not a SentencePiece model: {first_line(error)}") from None
        self._proto: bytes = self._processor.serialized_model_proto()
        self.eos_id: int = self._processor.eos_id()
        if self.eos_id < 0:
            raise ConfigError(f"{model_file} defines no EOS token, which every text must end with")
        bos: int = self._processor.bos_id()
        if add_bos and bos < 0:
            raise _no_bos(str(model_file))
        self.prefix: tuple[int, ...] = (bos,) if add_bos else ()
        self.fingerprint = hashlib.sha256(b"sentencepiece\0" + self._proto).hexdigest()

    @property
    def proto(self) -> bytes:
        """The SentencePiece model, serialized."""
        return self._proto

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See ``Tokenizer``."""
        ids: list[list[int]] = self._processor.encode(list(texts), out_type=int)
        return ids

    def piece(self, token: int) -> str:
        """See ``Tokenizer``."""
        return str(self._processor.id_to_piece(token))

    def save(self, directory: Path) -> None:
        """See ``Tokenizer``."""
        (directory / "spiece.model").write_bytes(self._proto)


class HubTokenizer:
    """A tokenizer of ``transformers``."""

    def __init__(self, tokenizer: Any, add_bos: bool | None = None, eos_id: int | list[int] | None = None) -> None:
        """Wraps ``tokenizer``; ``eos_id`` of the model is used where it has neither EOS nor SEP."""
        self._tokenizer = tokenizer
        self._special_ids = {i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id}
        literals = sorted((t for t in tokenizer.all_special_tokens if len(t) > 1), key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, literals))) if literals else None
        self.eos_id = _end(tokenizer, eos_id)
        self.prefix = self._start(add_bos)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        described = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
        self.fingerprint = sha256_json(["transformers", type(tokenizer).__name__, described])

    @property
    def source(self) -> Any:
        """The tokenizer of ``transformers`` inside."""
        return self._tokenizer

    def _start(self, add_bos: bool | None) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text, or BOS, as ``add_bos`` demands."""
        tokenizer = self._tokenizer
        bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
        if add_bos and bos is None:
            raise _no_bos(tokenizer.name_or_path)
        whole, plain = tokenizer("a")["input_ids"], self.encode(["a"])[0]
        places = [i for i in range(len(whole)) if plain and whole[i : i + len(plain)] == plain]
        own = tuple(whole[: places[0]]) if places else ()
        if add_bos is None:
            return own
        if not add_bos:
            return ()
        return own if bos in own else (bos, *own)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See ``Tokenizer``."""
        rows = self._encode(list(texts))
        for i, row in enumerate(rows):
            if self._literal is not None and not self._special_ids.isdisjoint(row):
                # A unigram model may contain "</s>" as an ordinary piece; encoded in parts, it is text.
                cuts = [0, *(match.start() + 1 for match in self._literal.finditer(texts[i])), len(texts[i])]
                parts = self._encode([texts[i][a:b] for a, b in pairwise(cuts)])
                rows[i] = [token for part in parts for token in part]
        return rows

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,  # a special token that is written in a text is text
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def piece(self, token: int) -> str:
        """See ``Tokenizer``."""
        return str(self._tokenizer.convert_ids_to_tokens(token))

    def save(self, directory: Path) -> None:
        """See ``Tokenizer``."""
        self._tokenizer.save_pretrained(directory)


def _no_bos(name: str) -> ConfigError:
    return ConfigError(f"model.add_bos=true needs a BOS token, but the tokenizer of {name!r} has none. Use null")


def _end(tokenizer: Any, eos_id: int | list[int] | None) -> int:
    """The id that ends every text: EOS or SEP of the tokenizer, or the only EOS of the model."""
    candidates = eos_id if isinstance(eos_id, list) else [eos_id]
    own = [tokenizer.eos_token_id, tokenizer.sep_token_id, *(candidates if len(candidates) == 1 else [])]
    end: int | None = next((i for i in own if i is not None), None)
    if end is None:
        several = f", and the model names {len(candidates)} ({candidates})" if len(candidates) > 1 else ""
        raise ConfigError(
            f"tokenizer of {tokenizer.name_or_path!r} has no EOS token, which every text must end with{several}. "
            "Add eos_token to its tokenizer_config.json"
        )
    return end


def load_tokenizer(config: ModelConfig, eos_id: int | list[int] | None = None) -> Tokenizer:
    """The tokenizer that ``config`` names.

    For random weights, which are for trials, the tokenizer of ja-mini replaces one that could not be loaded.

    Args:
        config: ``tokenizer``, a hub id, a folder or a SentencePiece ``.model`` file, takes precedence over ``name``.
        eos_id: EOS id of the model, for tokenizers without one; some models name several.

    Raises:
        ConfigError: The tokenizer could not be loaded, or it lacks EOS, or BOS where ``add_bos`` is true.
    """
    try:
        return _load_tokenizer(config, eos_id)
    except ConfigError:
        if config.weights != "random" or config.tokenizer is not None:
            raise
    log.warning("The tokenizer of %s could not be loaded; the tokenizer of ja-mini is used instead", config.name)
    return _load_tokenizer(ModelConfig(name="ja-mini"), None)


def _load_tokenizer(config: ModelConfig, eos_id: int | list[int] | None) -> Tokenizer:
    name = config.tokenizer or config.name
    key = "model.tokenizer" if config.tokenizer else "model.name"
    if name.endswith(".model") and Path(name).is_file():
        return SentencePieceTokenizer(Path(name), config.add_bos)
    revision = config.revision if config.tokenizer is None else None
    models = [path for file in _SENTENCEPIECE_FILES if (path := local_file(name, file, revision, key)) is not None]
    if config.tokenizer_kind == "sentencepiece" and not models:
        raise ConfigError(f"{name} has no SentencePiece model ({' or '.join(_SENTENCEPIECE_FILES)})")
    own_bos = False if config.tokenizer_kind == "sentencepiece" else _bos_if_misread(name, revision, key, models)
    if models and own_bos is not None:
        return SentencePieceTokenizer(models[0], own_bos if config.add_bos is None else config.add_bos)
    with hub_errors(name, key):
        tokenizer = AutoTokenizer.from_pretrained(
            source_name(name),
            revision=revision,
            local_files_only=only_local(name),
            trust_remote_code=config.trust_remote_code,
        )
        return HubTokenizer(tokenizer, config.add_bos, eos_id)  # the first use shows some faults of its files


def _bos_if_misread(name: str, revision: str | None, key: str, models: Sequence[Path]) -> bool | None:
    """Whether texts start with BOS, where transformers gives other ids than ``models``; None where it does not."""
    if local_file(name, "tokenizer.json", revision, key) is not None:
        return None
    path = local_file(name, "tokenizer_config.json", revision, key)
    if path is None:
        return False if models and local_file(name, "config.json", revision, key) is None else None
    with hub_errors(name, key):
        described = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(described, dict):
            raise ValueError(f"{path.name} is not a JSON object")
    kind = described.get("tokenizer_class")
    if kind in _MISREAD_CLASSES:
        return False
    if kind in _BYTE_PAIR_CLASSES and models:
        proto: Any = sentencepiece_model_pb2
        trainer = proto.ModelProto.FromString(SentencePieceTokenizer(models[0]).proto).trainer_spec
        if trainer.model_type == proto.TrainerSpec.UNIGRAM:
            return bool(described.get("add_bos_token", True))
    return None
