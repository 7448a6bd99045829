"""The ``key=value`` arguments of a command."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from llm_cls.cli import say
from llm_cls.config.help import command_help
from llm_cls.config.messages import echo, validate
from llm_cls.errors import ConfigError

T = TypeVar("T", bound=BaseModel)


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether ``arguments`` contain ``-h`` or ``--help``."""
    return not {"-h", "--help"}.isdisjoint(arguments)


def read_arguments(schema: type[T], name: str, more: str = "", arguments: Sequence[str] | None = None) -> T | None:
    """The validated ``key=value`` arguments of a command; None where its help was printed instead.

    The help is printed on request, and where there are no arguments although the command needs some.

    Args:
        schema: The section of the arguments.
        name: The command: ``python -m llm_cls.NAME``.
        more: What the help says after the keys.
        arguments: Those of the command line by default.

    Raises:
        ConfigError: Arguments are not of that form, unknown, missing or not valid, with a line for each.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    needed = any(field.is_required() for field in schema.model_fields.values())
    if wants_help(given) or (needed and not given):
        say(command_help(schema, name, more))
        return None
    if wrong := [argument for argument in given if "=" not in argument]:
        raise ConfigError(
            "\n".join(
                f"{echo(argument) or repr(argument)} is not of the form key=value. Try python -m llm_cls.{name} --help"
                for argument in dict.fromkeys(wrong)
            )
        )
    return validate(schema, nested({key: value for key, _, value in (argument.partition("=") for argument in given)}))


def nested(values: Mapping[str, str]) -> dict[str, Any]:
    """Values by dotted keys as the sections that they belong to.

    >>> nested({"run": "r", "data.file": "f"})
    {'run': 'r', 'data': {'file': 'f'}}
    """
    sections: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, name = key.partition(".")
        if dot and isinstance(sections.setdefault(section, {}), dict):
            sections[section][name] = value
        else:
            sections[key] = value
    return sections
