"""The faults of a command line that Hydra refused.

Hydra stops at its first fault, in its own terms. The overrides are therefore checked against the groups and the
schema, so that all faults are reported together; Hydra's message is shown only where none of them is found.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from llm_cls.cli import summarize
from llm_cls.config.compose import compose_tree, raised_by_hydra, to_type_list, to_type_quoted
from llm_cls.config.groups import GROUPS, choices
from llm_cls.config.messages import echo, nearest, unknown_key
from llm_cls.config.schema import keys, parse_config
from llm_cls.errors import EXIT_UNEXPECTED, ConfigError, first_line


@contextmanager
def explained(overrides: Sequence[str], multirun: bool = False) -> Iterator[None]:
    """Replaces an error of Hydra's in the block by all faults of ``overrides``.

    Args:
        overrides: As for ``explain``.
        multirun: As for ``explain``.

    Raises:
        ConfigError: Hydra refuses the overrides.
    """
    try:
        yield
    except Exception as error:
        file_fails = isinstance(error.__cause__ or error.__context__, OSError)  # Hydra cannot open the log
        if file_fails or summarize(error)[1] != EXIT_UNEXPECTED or not raised_by_hydra(error):
            raise
        raise explain(error, overrides, multirun) from error


def explain(error: Exception, overrides: Sequence[str], multirun: bool = False) -> ConfigError:
    """All faults of ``overrides``, after Hydra or OmegaConf has raised ``error``.

    Args:
        error: The error. It is shown if no fault is found in the overrides, for example if a ``conf/`` file is wrong.
        overrides: The command line without its flags.
        multirun: Whether a key may have several values.
    """
    own_choices = any(text.lstrip("+").startswith("hydra.searchpath") for text in overrides)
    faults: list[str] = []
    refused: set[str] = set()
    accepted: list[Override] = []
    for text in overrides:
        override = _parse(text)
        if isinstance(override, Override) and override.key_or_group.startswith("hydra"):
            continue
        fault = override if isinstance(override, str) else _fault(override, text, multirun, own_choices)
        if fault is not None:
            faults.append(fault)
            refused.add(text.lstrip("+~").partition("=")[0].partition("@")[0])
        elif isinstance(override, Override) and not override.is_sweep_override():
            accepted.append(override)
    try:
        unused, tree = _apply(accepted)
        faults += unused.values()
        refused |= unused.keys()
        parse_config(tree)
    except ConfigError as invalid:
        # Without the overrides that are refused above, their keys may seem to be missing.
        faults += [line for line in str(invalid).splitlines() if line.split()[0].rstrip(",") not in refused]
    except Exception as remaining:
        if not raised_by_hydra(remaining):
            raise
        faults = faults or [_hydra_line(remaining)]
    return ConfigError("\n".join(dict.fromkeys(faults)) or _hydra_line(error))


def _parse(text: str) -> Override | str:
    """The parsed override, or a line that says why it could not be parsed."""
    parse = OverridesParser.create().parse_overrides
    key, equals, value = text.partition("=")
    try:
        return parse([text])[0]
    except OverrideParseException:
        if not equals and not key.startswith("~"):
            return f"{echo(text) or repr(text)} is not of the form key=value"
        try:
            parse([f"{key}=1"])
        except OverrideParseException:  # the key is at fault, whatever the value
            return unknown_key(key.lstrip("+~"), [*GROUPS, *keys()])
        fix = f"Quote the value for Hydra and the shell: {echo(to_type_quoted(key, value))}"
        return f"{echo(text)} could not be parsed. {fix}"
    except ValueError:  # Python converts no longer ones
        return f"{echo(text)} has a number of more than {sys.get_int_max_str_digits()} digits. Give a smaller one"
    except RecursionError:
        return f"{echo(text)} is nested too deeply. Give fewer brackets"


def _fault(override: Override, text: str, multirun: bool, own_choices: bool) -> str | None:
    """The line about a key that does not exist, a choice that does not exist, or several values for one run.

    Args:
        override: What Hydra has parsed.
        text: What was typed, which Hydra got with more quotes.
        multirun: As for ``explain``.
        own_choices: Whether the user has added choices.
    """
    key, known = override.key_or_group, keys()
    value = text.partition("=")[2]
    if key not in GROUPS and not _exists(key, known):
        return unknown_key(key, [*GROUPS, *known])
    if override.is_sweep_override() and not multirun:
        line = f"{echo(text)} has several values. Add --multirun to try each"
        if key in GROUPS:
            return line
        listed, single = echo(to_type_list(key, value)), echo(to_type_quoted(key, value))
        return f"{line}, or write {listed} for a list, or {single} for one value with a comma"
    if key in GROUPS and not override.is_delete() and not own_choices:
        for name in _names(override):
            if name not in (known_choices := choices(key)):
                return f"{key}={echo(name)} is not a choice. {nearest(name, known_choices)}"
    return None


def _exists(key: str, known: Sequence[str]) -> bool:
    """Whether ``key`` is a key of the schema, a section of it, or a key of transformers."""
    return key.startswith("model.architecture.") or any(k == key or k.startswith(f"{key}.") for k in known)


def _names(override: Override) -> list[str]:
    """The choices that ``override`` names."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        value = value.list
    return [str(name) for name in (value if isinstance(value, list) else [value])]


def _apply(overrides: Sequence[Override]) -> tuple[dict[str, str], DictConfig]:
    """A line for each key that the choices do not use, by key, and the tree with the values of all other keys."""
    values = [o for o in overrides if o.key_or_group not in GROUPS and o.type == OverrideType.CHANGE]
    tree = compose_tree([o.input_line or "" for o in overrides if o not in values])
    OmegaConf.set_struct(tree, False)
    lines: dict[str, str] = {}
    for override in values:
        section, _, name = override.key_or_group.rpartition(".")
        parent = OmegaConf.select(tree, section) if section else tree
        if isinstance(parent, DictConfig) and name in parent:
            OmegaConf.update(tree, override.key_or_group, override.value())
        else:
            key, group = override.key_or_group, override.key_or_group.partition(".")[0]
            lines[key] = f"{key} has no effect with this choice of {group}. Choose another one, or write +{key}=..."
    return lines, tree


def _hydra_line(error: Exception) -> str:
    """Hydra's own message in one line."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={choice} is not a choice. {nearest(choice, sorted(error.options))}"
    line = " ".join(part.strip() for part in str(error).splitlines()[:2])
    if isinstance(error, AssertionError | AttributeError | LookupError | RecursionError | TypeError):
        line = f"Hydra cannot read this command line ({type(error).__name__}{line and f': {line}'})"
    return f"{line} {first_line(error.__cause__)}" if error.__cause__ is not None else line
