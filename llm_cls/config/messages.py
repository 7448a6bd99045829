"""Faults of values as the lines that a user reads: the key, what was expected, what was found, the fix."""

import difflib
import re
import sys
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from llm_cls.cli import printable
from llm_cls.config.fields import extra, fields, section_of
from llm_cls.errors import ConfigError

T = TypeVar("T", bound=BaseModel)

_LONGEST = 200  # characters of a user's text in a message


def validate(schema: type[T], values: Any) -> T:
    """``values`` as an instance of ``schema``.

    Raises:
        ConfigError: With one line for every fault: key, value, fix.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        lines: dict[str, tuple[str, str]] = {}
        for fault in error.errors(include_url=False):
            for line in _describe(schema, fault):
                key = line.split()[0]  # one of several types has a fault for each
                if key not in lines or (_entry(schema, fault) and not lines[key][0]):
                    lines[key] = _entry(schema, fault), line
        raise ConfigError("\n".join(line for _, line in lines.values())) from None


def echo(text: str) -> str:
    r"""A user's text as part of a line: printable, and shortened in the middle.

    >>> print(echo("a\tb"), echo("9" * 5000)[98:])
    a\tb 99...99 (5000 characters)
    """
    if len(text) <= _LONGEST:
        return printable(text)
    half = _LONGEST // 2
    return f"{printable(text[:half])}...{printable(text[-2:])} ({len(text)} characters)"


def nearest(name: str, known: Sequence[str]) -> str:
    """The question "Did you mean 'x'?" for the known name nearest to ``name``, or the list of all."""
    if match := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"Did you mean {match[0]!r}?"
    return f"Known: {', '.join(known)}."


def unknown_key(key: str, known: Sequence[str]) -> str:
    """The line for a key that does not exist: it suggests keys of the same section only.

    >>> unknown_key("xx.zzz", ["a", "xx.left", "xx.right"]), unknown_key("foo", ["a", "xx.left", "xx.right"])
    ('xx.zzz is not a key. Known: xx.left, xx.right.', 'foo is not a key. Known: a, xx.')
    """
    shown = key if re.fullmatch(r"[\w.]+", key) else repr(key)
    section, dot, _ = key.rpartition(".")
    beside = [name for name in known if dot and name.startswith(f"{section}.")]
    tops = list(dict.fromkeys(name.partition(".")[0] for name in known))
    if match := difflib.get_close_matches(key, known if dot else tops, n=1, cutoff=0.5):
        return f"{echo(shown)} is not a key. Did you mean {match[0]!r}?"
    return f"{echo(shown)} is not a key. Known: {', '.join(beside or tops)}."


def _describe(schema: type[BaseModel], fault: ErrorDetails) -> list[str]:
    """One fault of pydantic as the lines that the user reads."""
    location = [str(part) for part in fault["loc"]]
    if fault["type"] == "extra_forbidden":
        return [unknown_key(".".join(location), list(fields(schema)))]
    path, field = _locate(schema, location)
    key = ".".join(path)
    if fault["type"] == "missing" and len(path) == len(location):
        return [f"{key} is missing. Try {field.examples[0] if field and field.examples else f'{key}=...'}"]
    if field is None or (section_of(field) is not None and fault["type"] == "value_error"):
        # Raised by the validator of a section; its message names the keys and the fixes.
        message = str(fault.get("ctx", {}).get("error", fault["msg"]))
        return [line if "." in line.split()[0] or not key else f"{key}: {line}" for line in message.splitlines()]
    value = fault["input"]
    hint = f" Try {field.examples[0]}." if field.examples else ""
    entry = _entry(schema, fault)
    where = f" for {echo(repr(entry))}" if entry else ""
    return [f"{key} must {_expected(field, fault)}, got {_shown(value)}{where}.{hint}"]


def _entry(schema: type[BaseModel], fault: ErrorDetails) -> str:
    """The entry of a mapping that a fault is about; "" where it is about the whole value."""
    path, field = _locate(schema, [str(part) for part in fault["loc"]])
    if field is None:
        return ""
    has_several = len(_types(field.annotation)) > 1  # pydantic then puts the one that it tried before the entry
    rest = fault["loc"][len(path) + has_several :]
    return rest[0] if len(rest) == 1 and isinstance(rest[0], str) else ""


def _types(annotation: Any) -> list[Any]:
    """The types that a value may have besides null."""
    if get_origin(annotation) is Annotated:
        return _types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _types(part)]
    return [annotation] if annotation is not NoneType else []


def _shown(value: Any) -> str:
    try:
        return echo("null" if value is None else repr(value) if isinstance(value, str) else str(value))
    except ValueError:  # Python does not write out a larger one; YAML has hexadecimal numbers of any length
        return f"a number of more than {sys.get_int_max_str_digits()} digits"


def _locate(schema: type[BaseModel], location: Sequence[str]) -> tuple[list[str], FieldInfo | None]:
    """The part of ``location`` that names a key, and its field; the rest is an element or a type of a union."""
    path: list[str] = []
    field, section = None, schema
    for part in location:
        if part not in section.model_fields:
            break
        path.append(part)
        field = section.model_fields[part]
        if (inner := section_of(field)) is None:
            break
        section = inner
    return path, field


_LIMITS = {
    "greater_than_equal": ("ge", ">="),
    "greater_than": ("gt", ">"),
    "less_than_equal": ("le", "<="),
    "less_than": ("lt", "<"),
}


def _expected(field: FieldInfo, fault: ErrorDetails) -> str:
    """What the value must be, after "must"."""
    kind, context = fault["type"], fault.get("ctx", {})
    if (wording := extra(field, "must_be")) is not None:
        return f"be {wording}"
    if kind in _LIMITS:
        name, sign = _LIMITS[kind]
        limit = context[name]
        return f"be {sign} {int(limit) if limit == int(limit) else limit}"
    if kind == "literal_error":
        return f"be {context['expected']}"
    if kind.startswith("int"):
        return "be a whole number"
    if kind == "finite_number":
        return "be a finite number"
    if kind.startswith("float"):
        return "be a number"
    if kind.startswith("bool"):
        return "be true or false"
    if kind == "path_type":
        return "be a path"
    if kind in ("string_too_short", "too_short"):
        return "not be empty"
    if kind == "value_error":  # raised by a type in fields.py, whose message starts with "must"
        return str(context["error"]).removeprefix("must ")
    return "be " + fault["msg"].removeprefix("Input should be ")
