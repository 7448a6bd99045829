"""``config.yaml``: the full resolved configuration of a run."""

import re
from pathlib import Path
from typing import Any

import yaml

from llm_cls.config.messages import echo, validate
from llm_cls.config.schema import Config
from llm_cls.errors import ArtifactError, ConfigError, first_line
from llm_cls.files import read_regular

_MAX_BYTES = 2**20
_MAX_DEPTH = 50  # a configuration has four levels
_HUGE = re.compile(r"[-+]?(0[xb][\da-fA-F_]{20,}|[\d_:]{20,})")  # 20 digits; a hash of digits alone is in quotes
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times as fast


def dump_config(config: Config) -> str:
    """The full configuration as YAML."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, allow_unicode=True, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Writes equal values out each time, since the reader accepts no aliases."""
        return True


def read_config(path: Path) -> Config:
    """The configuration that a run wrote.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    values = read_values(path)
    if values is None:
        raise ArtifactError(f"{path} is missing. Restore it or train the run again")
    try:
        return validate(Config, values)
    except ConfigError as error:
        raise ArtifactError(f"{path} is damaged: {first_line(error)}. Restore it or train the run again") from None


def read_values(path: Path) -> dict[str, Any] | None:
    """The content of the file, whichever version of the package wrote it; None if the file is missing.

    Raises:
        ArtifactError: It is not YAML with keys and values.
    """
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8")
        _check_harmless(text)
        values = yaml.load(text, Loader=_LOADER)
        if not isinstance(values, dict):
            raise ValueError("it must hold keys and values")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        fault = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ArtifactError(f"{path} is damaged: {fault}. Restore it or train the run again") from None
    return values


def _check_harmless(text: str) -> None:
    """Refuses what could be loaded but not used.

    Huge numbers can neither be converted to float nor printed. A few lines of aliases to aliases stand for billions of
    values. At deep nesting the loader, which recurses in C, would end the interpreter.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias, *{event.anchor}")
        if isinstance(event, yaml.ScalarEvent) and not event.style and _HUGE.fullmatch(event.value):
            raise ValueError(f"the number {echo(event.value)} is too large")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
