"""Hydra's part: plain values, flags, composing the configuration, and quoting overrides for a shell."""

import re
import shlex
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig

from llm_cls.config.groups import CONF, GROUPS
from llm_cls.errors import ConfigError

_LABELS = ("loss.class_weights", "data.label_names", "data.label_order")


def accept_plain_values() -> None:
    """Lets people type ``template=2`` and ``data.text=本文``.

    Hydra 1.3 parses 2 as a number, which is not the name of a choice, and its grammar has ASCII letters only.
    """
    parse: Callable[[OverridesParser, list[str]], list[Override]] = OverridesParser.parse_overrides

    def parse_overrides(self: OverridesParser, overrides: list[str]) -> list[Override]:
        parsed = parse(self, [_quote_other_letters(override) for override in overrides])
        for override in parsed:
            if override.key_or_group in GROUPS and isinstance(override._value, list | dict):
                raise ConfigError(f"{override.input_line} must name one choice. Try {override.key_or_group}=NAME")
            typed = (override.input_line or "").partition("=")
            if override.key_or_group in GROUPS and isinstance(override._value, int | float | None) and typed[1]:
                override._value = typed[2].strip()
            if override.is_delete():
                continue
            if override.key_or_group.startswith("model.architecture") and override.type == OverrideType.CHANGE:
                override.type = OverrideType.FORCE_ADD  # its keys are those of transformers
        return parsed

    OverridesParser.parse_overrides = parse_overrides  # type: ignore[method-assign]


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates Hydra's flags, with their values, from the overrides, in whatever order they are given.

    Hydra's own parser accepts no overrides on both sides of a flag.

    >>> split_flags(["model=ja-mini", "--cfg", "job", "data=sample"])
    (['--cfg=job'], ['model=ja-mini', 'data=sample'])

    Raises:
        ConfigError: A flag or its value does not exist.
    """

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}. Try python -m llm_cls.train --hydra-help for the list of flags")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # it would print ten lines and exit
    # --info may have no value, and would take an override as one.
    pairs = zip(arguments, [*arguments[1:], "="], strict=False)
    given = ["--info=all" if a in ("--info", "-i") and re.search("[=~]", b) else a for a, b in pairs]
    found = vars(parser.parse_intermixed_args(given))
    overrides = found.pop("overrides")
    flags = {f"--{name.replace('_', '-')}": value for name, value in found.items() if value not in (None, False)}
    return [flag if value is True else f"{flag}={value}" for flag, value in flags.items()], overrides


def compose_tree(overrides: Sequence[str]) -> DictConfig:
    """The tree that Hydra composes from ``conf/`` and ``overrides``, outside a run of Hydra's.

    Raises:
        Exception: Hydra refuses an override; ``overrides.explain`` says why.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def raised_by_hydra(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf failed at what they were given, by an error of any class.

    Besides their own, ``ValueError`` and the ``AssertionError`` of their checks are common. What counts is that our
    code had called them last: an error of a task or a plugin passes through Hydra as well.
    """
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [name.partition(".")[0] for name in names]
    own = max((i for i, package in enumerate(packages) if package == __name__.partition(".")[0]), default=-1)
    return packages[own + 1 : own + 2] in (["hydra"], ["omegaconf"])


def quoted(value: str) -> str:
    """``value`` as a string of Hydra's grammar, whatever it contains."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"  # others are literal


def to_type(key: str, value: str) -> str:
    """The override ``key=value`` for Hydra and the shell, in quotes where it needs them.

    >>> print(to_type("sweep.name", "first"), to_type("sweep.name", "my sweep"))
    sweep.name=first "sweep.name='my sweep'"
    """
    return f"{key}={value}" if re.fullmatch(r"[\w./-]+", value) else to_type_quoted(key, value)


def to_type_quoted(key: str, value: str) -> str:
    """The same, always in quotes.

    >>> print(to_type_quoted("data.file", "a,b.csv"))
    "data.file='a,b.csv'"
    """
    if not re.search(r"['\"$`\\!]", value):
        return f"\"{key}='{value}'\""
    return shlex.quote(f"{key}={quoted(value)}" if '"' in value else f'{key}="{value}"')


def to_type_list(key: str, value: str) -> str:
    """The override that makes a list of the values ``value``, which commas separate.

    >>> print(to_type_list("seed", "1,2"), to_type_list("logger.tags", "a,本"))
    seed=[1,2] "logger.tags=[a,'本']"
    """
    listed = "[" + _quote_other_letters(f"={value}")[1:] + "]"
    return f"{key}={listed}" if value.isascii() else f'"{key}={listed}"'


def _quote_other_letters(override: str) -> str:
    """``override`` with quotes around what Hydra's grammar lacks or would change: other letters, and labels.

    >>> print(_quote_other_letters("data.text=[前提, b]"), _quote_other_letters("data.label_order=[1e3,no]"))
    data.text=['前提', b] data.label_order=['1e3',no]
    """
    key, equals, value = override.partition("=")
    if re.search(r"['\"]", value):
        return override  # it is written in Hydra's grammar
    if key.lstrip("+") in _LABELS:  # which stay as typed: 1, no, 1e3
        value = re.sub(r"{[^{}]*}|(?<=[\[,])[^\[\],{}]+(?=[^\[\]{}]*\])", lambda m: _quoted_inside(m[0]), value)
    elif not value.isascii() and not re.search(r"[\[\](){}\\]", value):
        value = ",".join(part if part.isascii() else quoted(part) for part in value.split(","))
    elif not value.isascii() and "\\" not in value:
        between = r"[^\[\](),{}:]+" if "{" in value else r"[^\[\](),]+"
        value = re.sub(between, lambda m: m[0] if m[0].isascii() else _quoted_inside(m[0]), value)
    return f"{key}{equals}{value}"


def _quoted_inside(part: str) -> str:
    """``part`` in quotes, with the blanks around it outside of them; a word of ASCII letters needs none."""
    text = part.strip()
    is_word = re.fullmatch(r"[A-Za-z_]+", text) and text.lower() not in ("null", "true", "false", "nan", "inf")
    return part if is_word or not text else part.replace(text, quoted(text))
