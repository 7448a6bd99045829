"""What Hydra leaves to its users: plain values as they are typed, and errors that say what to type instead."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from llm_cls.config.schema import keys, nearest, parse_config
from llm_cls.errors import ConfigError, first_line

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
GROUPS = ("model", "template", "data", "lora", "optimizer", "engine", "trainer", "logger", "pruner", "experiment")


def accept_plain_values() -> None:
    """Lets people type ``template=2`` and ``data.text=本文``.

    Hydra 1.3 reads 2 as a number and refuses it as the name of a file, and its grammar has no letters but ASCII.
    """
    parse: Callable[[OverridesParser, list[str]], list[Override]] = OverridesParser.parse_overrides

    def parse_overrides(self: OverridesParser, overrides: list[str]) -> list[Override]:
        parsed = parse(self, [_quote_foreign_letters(override) for override in overrides])
        for override in parsed:
            if override.key_or_group in GROUPS and isinstance(override._value, int | float | None):
                override._value = (override.input_line or "").partition("=")[2].strip()
            if override.key_or_group.startswith("model.architecture") and override.type == OverrideType.CHANGE:
                override.type = OverrideType.FORCE_ADD  # its keys are those of transformers
        return parsed

    OverridesParser.parse_overrides = parse_overrides  # type: ignore[method-assign]


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the overrides.

    Hydra's own reading of a command line takes no overrides on both sides of a flag.

    >>> split_flags(["model=ja-mini", "--cfg", "job", "data=sample"])
    (['--cfg=job'], ['model=ja-mini', 'data=sample'])

    Raises:
        ConfigError: There is no such flag, or no such value of a flag.
    """

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}. Try python -m llm_cls.train --hydra-help, which lists the flags")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # it would print ten lines and exit
    # --info goes without a value too, and would take an override for one.
    pairs = zip(arguments, [*arguments[1:], "="], strict=False)
    given = ["--info=all" if a in ("--info", "-i") and re.search("[=~]", b) else a for a, b in pairs]
    found = vars(parser.parse_intermixed_args(given))
    overrides = found.pop("overrides")
    flags = {f"--{name.replace('_', '-')}": value for name, value in found.items() if value not in (None, False)}
    return [flag if value is True else f"{flag}={value}" for flag, value in flags.items()], overrides


def quoted(value: str) -> str:
    """``value`` as a string of Hydra's grammar, whatever is in it."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"  # others are literal


def _quote_foreign_letters(override: str) -> str:
    """``override`` with quotes around each of its values that has letters which Hydra's grammar lacks."""
    key, equals, value = override.partition("=")
    if value.isascii() or re.search(r"[\[\]{}()'\"\\]", value):
        return override  # whoever writes a list or quotes follows the grammar
    values = [part if part.isascii() else quoted(part) for part in value.split(",")]
    return f"{key}{equals}{','.join(values)}"


def explain(error: Exception, overrides: Sequence[str]) -> ConfigError | None:
    """All faults of a command line that Hydra refused at its first one; None if the fault isn't there.

    The refused overrides are set aside one by one until the rest composes, and that is validated too.
    """
    faults: list[str] = []
    aside: set[str] = set()
    left = [o for o in overrides if not o.startswith(("hydra", "-"))]
    current: Exception | None = error
    while current is not None:
        fault = _fault(current)
        if fault is None:
            return None if not faults else ConfigError("\n".join(faults))
        line, culprit = fault
        faults.append(line)
        aside.add(culprit)
        kept = [o for o in left if o.lstrip("+~").partition("=")[0].partition("@")[0] != culprit]
        if len(kept) == len(left):
            break  # it comes from a file, not from the command line
        left, current = kept, None
        try:
            parse_config(_compose(left))
        except ConfigError as invalid:
            # what was set aside seems to be missing now
            faults += [line for line in str(invalid).splitlines() if line.split()[0].rstrip(",") not in aside]
        except (HydraException, OmegaConfBaseException, ValueError) as next_error:
            current = next_error
    return ConfigError("\n".join(dict.fromkeys(faults)))


def _compose(overrides: list[str]) -> Any:
    GlobalHydra.instance().clear()
    single = [o for o in overrides if "," not in o.partition("=")[2] or "[" in o or "'" in o or '"' in o]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=single)


def to_type(key: str, value: str) -> str:
    """The override ``key=value`` for Hydra and the shell, in quotes where it needs them.

    >>> print(to_type("sweep.name", "first"), to_type("sweep.name", "my sweep"))
    sweep.name=first "sweep.name='my sweep'"
    """
    return f"{key}={value}" if re.fullmatch(r"[\w./-]+", value) else _typed(key, value)


def _typed(key: str, value: str) -> str:
    """What to type in a shell for this value, whatever is in it."""
    if not re.search(r"['\"$`\\!]", value):
        return f"\"{key}='{value}'\""
    return shlex.quote(f"{key}={quoted(value)}" if '"' in value else f'{key}="{value}"')


def _fault(error: Exception) -> tuple[str, str] | None:
    """One of Hydra's errors as ``(line for the user, key or group that it is about)``."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        given, equals, value = error.override.partition("=")
        if not equals:
            return f"{given} is not of the form key=value", given
        return f"{given}={value} can't be read. Quote the value for Hydra and the shell: {_typed(given, value)}", given
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={choice} is not a choice. {nearest(choice, sorted(error.options))}", group
    if match := re.search(r"Could not (?:override|delete)[^']*'([^'@]+)", text):
        key = match.group(1)
        known = [*GROUPS, "seed"] if "." not in key else keys()
        if key in known and "." in key:
            group = key.partition(".")[0]
            return f"{key} is of no use with this choice of {group}. Choose another one, or write +{key}=...", key
        return f"{key} is not a key. {nearest(key, known)}", key
    if match := re.search(r"Ambiguous value for argument '([^=]+)=(.*?)'", text):
        key, value = match.groups()
        line = f"{key}={value} has several values. Add --multirun to try each, or write [{value}] for a list"
        return f"{line}, or {_typed(key, value)} for one value with a comma", key
    if isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        line = " ".join(part.strip() for part in text.splitlines()[:2])
        key = re.search(r"([\w.]+)=", line)
        if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
            line = f"{line} {first_line(error.__cause__)}"
        return line, key.group(1) if key else ""
    return None
