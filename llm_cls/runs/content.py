"""Reads and writes the models of ``schema.py`` as JSON and JSON lines."""

import reprlib
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from llm_cls.errors import ArtifactError
from llm_cls.files import json_text, read_regular, write_jsonl, write_text

T = TypeVar("T", bound=BaseModel)

# A directory that was received must not fill the memory.
_MAX_JSON_BYTES = 16 * 2**20
_MAX_JSONL_BYTES = 512 * 2**20


def write_content(path: Path, content: BaseModel) -> None:
    """Writes one model as indented JSON, atomically."""
    write_text(path, content_text(content))


def write_lines(path: Path, contents: Iterable[BaseModel]) -> None:
    """Writes one model per line, atomically."""
    write_jsonl(path, map(plain, contents))


def content_text(content: BaseModel) -> str:
    """One model as indented JSON."""
    return json_text(plain(content))


def plain(content: BaseModel) -> Any:
    """A model as JSON values, under the names that the files use."""
    return content.model_dump(mode="json", by_alias=True, exclude_unset=True)


def read_content(path: Path, schema: type[T], fix: str) -> T | None:
    """The content of a JSON file; None where there is no such file.

    Args:
        path: The file.
        schema: Its model.
        fix: What the user can do about a damaged file, in one sentence; it ends the message.

    Raises:
        ArtifactError: The file could not be read or does not match ``schema``.
    """
    content = read_bytes(path, fix, _MAX_JSON_BYTES)
    return None if content is None else _parse(content, schema, str(path), fix)


def read_lines(path: Path, schema: type[T], fix: str) -> list[T]:
    """The lines of a JSON-lines file; none where there is no such file.

    Raises:
        ArtifactError: As ``read_content``; the message names the line.
    """
    lines = enumerate((read_bytes(path, fix) or b"").split(b"\n"), start=1)
    return [_parse(line, schema, f"{path}, line {n},", fix) for n, line in lines if line.strip()]


def read_bytes(path: Path, fix: str, max_bytes: int = _MAX_JSONL_BYTES) -> bytes | None:
    """The content of a file of bounded size; None where there is no such file.

    Raises:
        ArtifactError: It could not be read.
    """
    try:
        return read_regular(path, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ArtifactError(f"{path} could not be read: {error.strerror}. {fix}") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: {error}. {fix}") from None


def _parse(content: bytes, schema: type[T], where: str, fix: str) -> T:
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        raise ArtifactError(f"{where} is damaged: {describe(error)}. {fix}") from None


def describe(error: ValidationError) -> str:
    """The first fault in one short line: key, what was expected, what was found."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "json_invalid":
        return fault["msg"]
    if fault["type"] == "value_error":  # raised by a validator of the whole model
        return f"{key}: {fault['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    wanted = fault["msg"].replace("Input should be", "must be")
    return f"{key} {wanted}, got {reprlib.repr(fault['input'])}".lstrip()


def flatten(tree: dict[Any, Any], prefix: str = "", whole: Container[str] = ()) -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys with their values; an empty mapping is a value, and so is that of a ``whole`` key.

    >>> dict(flatten({"lora": {"r": 4}, "seed": 1}))
    {'lora.r': 4, 'seed': 1}
    """
    for key, value in tree.items():
        if isinstance(value, dict) and value and f"{prefix}{key}" not in whole:
            yield from flatten(value, f"{prefix}{key}.", whole)
        else:
            yield f"{prefix}{key}", value
