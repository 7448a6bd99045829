"""The help of the commands, made from the schema: each key with its meaning, type, default and example."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llm_cls.config.fields import extra, fields, section_of
from llm_cls.config.groups import CONF, GROUPS, choices, default_choices
from llm_cls.config.schema import Config

_WIDTH = 100
_EXPERIMENT = "Settings that belong together: the published sweeps and the quickstart."


@dataclass(frozen=True)
class Key:
    """What the help and the documentation say about one key.

    Attributes:
        name: The dotted key.
        kind: Its type in words, such as "whole number >= 1".
        default: Its default in words; None where a value must be given.
        meaning: Short sentences.
        examples: Overrides as one types them.
    """

    name: str
    kind: str
    default: str | None
    meaning: str
    examples: tuple[str, ...]


def describe_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """The keys of one section, without those of nested sections."""
    properties = schema.model_json_schema()["properties"]
    inherited = {name for base in schema.__mro__[1:] for name in getattr(base, "model_fields", {})}
    own_first = sorted(schema.model_fields.items(), key=lambda item: item[0] in inherited)
    for name, field in own_first:
        if section_of(field) is None:
            yield Key(
                name=prefix + name,
                kind=(extra(field, "must_be") or _kind(properties[name])).removeprefix("a "),
                default=_default(field, prefix.rstrip(".")),
                meaning=field.description or "",
                examples=tuple(str(example) for example in field.examples or ()),
            )


def command_keys(schema: type[BaseModel]) -> Iterator[Key]:
    """All keys of a command's arguments, with those of nested sections, in the order of the fields."""
    direct = {key.name: key for key in describe_keys(schema)}
    for name, field in schema.model_fields.items():
        if (section := section_of(field)) is None:
            yield direct[name]
        else:
            for key in describe_keys(section):
                yield replace(key, name=f"{name}.{key.name}")


def sections(schema: type[BaseModel] = Config) -> dict[str, tuple[str, list[Key]]]:
    """The meaning and the keys of each section, by its name; keys outside of sections are under ""."""
    found = {}
    for name, field in schema.model_fields.items():
        if (section := section_of(field)) is not None:
            found[name] = (meaning(section), list(describe_keys(section, f"{name}.")))
    return found | {"": ("", list(describe_keys(schema)))}


def meaning(schema: type[BaseModel]) -> str:
    """The meaning of a section: the first line of its docstring."""
    return (schema.__doc__ or "").partition("\n")[0].replace("``", "")


def group_meaning(group: str) -> str:
    """The meaning of ``group``, in one sentence."""
    section = section_of(Config.model_fields[group]) if group in Config.model_fields else None
    return _EXPERIMENT if section is None else meaning(section)


def command_help(schema: type[BaseModel], name: str, more: str = "") -> str:
    """What ``python -m llm_cls.NAME --help`` prints.

    Args:
        schema: The section of the command's arguments.
        name: The command.
        more: What follows the keys.
    """
    required = [str(field.examples[0]) for field in fields(schema).values() if field.is_required() and field.examples]
    lines = [
        f"Usage: python -m llm_cls.{name} key=value ...",
        "",
        meaning(schema),
        "",
        "Keys:",
        *(line for key in command_keys(schema) for line in _lines(key)),
        *(["", more] if more else []),
        "",
        "Example:",
        "  " + " ".join([f"python -m llm_cls.{name}", *required]),
    ]
    return "\n".join(lines)


def train_help() -> str:
    """What ``python -m llm_cls.train --help`` prints."""
    defaults = default_choices()
    launchers = sorted(["basic", *(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml"))])
    lines = [
        "Usage: python -m llm_cls.train [group=choice ...] [key=value ...] [--multirun]",
        "",
        "Fine-tunes a decoder LLM with LoRA as a text classifier. With --multirun, every combination of values",
        "that are separated by commas is a run of a sweep.",
        "",
        "Groups and their choices:",
    ]
    for group in GROUPS:
        default = defaults.get(group)
        lines += [f"  {group}: {', '.join(choices(group))}"]
        lines += _wrapped(f"{group_meaning(group)} Default: {default or 'none'}.")
    lines += [
        f"  hydra/launcher: {', '.join(launchers)}",
        *_wrapped("The launcher that runs the jobs of --multirun. Default: basic."),
    ]
    for name, (what, keys) in sections().items():
        lines += ["", f"Keys of {name}: {what}" if name else "Other keys:"]
        lines += [line for key in keys for line in _lines(key)]
    lines += [
        "  hydra.run.dir  (path)",
        *_wrapped("Run directory. The directory of an interrupted run resumes that run."),
        *_wrapped("Default: outputs/runs/DATE/TIME. Example: hydra.run.dir=outputs/runs/first"),
        "",
        "Flags:",
        "  --cfg job      prints the configuration of this command line and does not train",
        "  --hydra-help   lists the flags of Hydra",
        "",
        "Examples:",
        "  python -m llm_cls.train experiment=quickstart",
        "  python -m llm_cls.train model=rinna-3.6b template=2 optimizer.lr=5e-4",
        "  python -m llm_cls.train data=table data.file=texts.csv data.text=text data.label=label",
        "  python -m llm_cls.train --multirun sweep.name=ranks lora=r8,r32 optimizer.lr=3e-4,5e-4",
    ]
    return "\n".join(lines)


def _lines(key: Key) -> list[str]:
    default = "Required." if key.default is None else f"Default: {key.default}."
    last = f"{default} Example: {' or '.join(key.examples)}"
    return [f"  {key.name}  ({key.kind})", *_wrapped(key.meaning), *_wrapped(last)]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False
    )


def _kind(spec: dict[str, Any]) -> str:
    """The type of a JSON schema in words.

    >>> _kind({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    'whole number >= 1, or null'
    >>> _kind({"anyOf": [{"type": "boolean"}, {"type": "null"}]})
    'true, false or null'
    """
    branches = spec.get("anyOf", [spec])
    values = [value for branch in branches for value in _values(branch)]
    if len(branches) == 2 == len(values):
        return ", or ".join(values)
    return " or ".join([", ".join(values[:-1]), values[-1]]) if values[1:] else values[0]


def _values(spec: dict[str, Any]) -> list[str]:
    """The values that a JSON schema without ``anyOf`` allows, or the one kind of them."""
    if "enum" in spec:
        return [str(value) for value in spec["enum"]]
    if spec["type"] == "boolean":
        return ["true", "false"]
    words = {"integer": "whole number", "number": "number", "null": "null", "object": "mapping"}
    word = words.get(spec["type"], "text")
    if spec["type"] == "array":
        word = f"list of {_kind(spec['items'])}"
    if spec.get("format") == "path":
        word = "path"
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    shown = [f"{sign} {spec[name]:.10g}" for name, sign in limits.items() if name in spec]
    return [" ".join([word, " and ".join(shown)]) if shown else word]


def _default(field: FieldInfo, group: str) -> str | None:
    """The default in words."""
    if (words := extra(field, "default")) is not None:
        return words
    if field.is_required():
        return f"set by {group}=..." if group else None
    return show(field.get_default(call_default_factory=True))


def show(value: Any) -> str:
    """A value as one types it.

    >>> show((0.9, True)), show(None), show(5e-4)
    ('[0.9,true]', 'null', '5e-4')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}" if 0 < abs(value) < 1e-3 else f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    return str(value)
