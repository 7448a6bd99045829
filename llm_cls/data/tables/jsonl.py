"""JSON: lines of objects, a list of objects, or a list within a larger document.

Numbers and booleans are the text that the file has, so that an id of twenty digits and a label 1.10 stay what they are.
Readers that infer a type for a column do so block by block, and give another one in a larger file.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from llm_cls.config.messages import nearest
from llm_cls.data.tables.format import JsonValue, Row, TableFormat, TableRow, check_unique
from llm_cls.data.tables.stream import LONGEST, open_text, read_all, text_lines

_SPACE = re.compile(r"\s*")


def read_json(path: Path, format: TableFormat, whole: bool) -> Iterator[TableRow]:
    """The rows, each with the keys that it has in the file; null and NaN are None.

    Objects that follow one another may share a line, or extend over several. A list is read as a whole.

    Raises:
        ValueError: The JSON is not valid, or has no rows at ``format.field``; the message has the line.
        DataError: As ``open_text``.
    """
    if format.field is not None or _begins_with_list(path, format.encoding):
        with open_text(path, format.encoding, None, whole) as stream:
            text = read_all(stream, path).removeprefix("\ufeff")
        values: Iterable[tuple[int | None, Any]] = ((None, value) for value in _list_of_rows(text, format.field))
        yield from _rows(values, path)
    else:
        with open_text(path, format.encoding, None, whole) as stream:
            yield from _rows(_values(text_lines(stream)), path)


def _begins_with_list(path: Path, encoding: str) -> bool:
    with open_text(path, encoding, None, whole=False) as stream:
        while block := stream.read(4096):
            if text := block.strip("\ufeff \t\r\n"):
                return text.startswith("[")
    return False


def _rows(values: Iterable[tuple[int | None, Any]], path: Path) -> Iterator[TableRow]:
    for number, (line, value) in enumerate(values, 1):
        if not isinstance(value, dict):
            place = "" if line is None else f" (line {line})"
            raise ValueError(
                f'row {number}{place} must be an object such as {{"text": "...", "label": "..."}}, '
                f"found {_kind(value)}. Write the rows as objects"
            )
        yield TableRow(value.items(), str(path), number, line)


def _kind(value: object) -> str:
    """What a value that is no object is called in JSON."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return "a list"
    return "a number" if isinstance(value, JsonValue) else "a string"


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_object,
        parse_float=JsonValue,
        parse_int=JsonValue,
        parse_constant=lambda text: None if text == "NaN" else text,  # pandas writes NaN for a missing value
    )


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        check_unique([name for name, _ in pairs])
    for name, value in pairs:
        if value is True or value is False:
            row[name] = JsonValue("true" if value else "false")
    return row


def _list_of_rows(text: str, field: str | None) -> list[Any]:
    """The list of rows in a document."""
    try:
        value = _decoder().decode(text)
    except json.JSONDecodeError as error:
        hint = ". data.field needs a file that is one JSON document" if field and error.msg == "Extra data" else ""
        raise ValueError(f"line {error.lineno}: {error.msg}{hint}") from None
    for name in field.split(".") if field is not None else ():
        if not isinstance(value, dict) or name not in value:
            known = nearest(name, list(value)) if isinstance(value, dict) and value else "There are no fields."
            raise ValueError(f"data.field={field}: there is no field {name!r}. {known}")
        value = value[name]
    if not isinstance(value, list):
        found = "an object" if isinstance(value, dict) else "one value"
        raise ValueError(f"data.field={field} must be a list of objects, found {found}. Choose another field")
    return value


def _values(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """The values that follow one another, each with the line where it begins.

    A value that is incomplete at the end of a line is tried again when twice as many lines are there.
    """
    decoder = _decoder()
    pending: list[str] = []
    first = retry = 1  # the lines where the pending text begins and is decoded
    for number, line in enumerate(chain(lines, [None]), 1):
        if line is not None:
            if not pending:
                if line.isspace():
                    continue
                first = retry = number
            pending.append(line)
            if number < retry:
                continue
        text = "".join(pending)
        position = _after_space(text, 0)
        while position < len(text):
            begin = first + text.count("\n", 0, position)
            try:
                value, end = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                may_continue = not text[error.pos :].strip() and "control character" not in error.msg
                if line is None or not may_continue or len(text) > LONGEST:
                    raise ValueError(f"line {first + error.lineno - 1}: {error.msg}") from None
                break
            except ValueError as error:  # of _object
                raise ValueError(f"line {begin}: {error}") from None
            yield begin, value
            position = _after_space(text, end)
        pending = [text[position:]] if position < len(text) else []
        if pending:
            first += text.count("\n", 0, position)
            retry = number + (number - first + 1)


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return position if match is None else match.end()
