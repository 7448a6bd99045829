"""The grid of a sweep: from the overrides of a command line to planned runs."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep

from llm_cls.config.messages import echo
from llm_cls.errors import ConfigError
from llm_cls.runs.sweep import Entry, directory_name

_MOST_RUNS = 10_000  # each is composed and checked before the first one begins


def spread(n: int) -> list[int]:
    """0 to n - 1 from the middle on, in an order whose beginnings are spread evenly (van der Corput sequence).

    The ends of a grid are often bad, and the first runs have nothing to be compared with.

    >>> spread(8)
    [4, 0, 6, 2, 5, 1, 7, 3]
    """
    bits = max(1, (n - 1).bit_length())
    order = [i for i in (int(f"{k:0{bits}b}"[::-1], 2) for k in range(2**bits)) if i < n]
    return [(i + n // 2) % n for i in order]


def plan(jobs: Sequence[Sequence[str]]) -> list[Entry]:
    """The combinations as planned runs; equal ones are merged.

    Raises:
        ConfigError: The grid is empty, or a key of the sweep itself is swept.
    """
    if not jobs:
        raise ConfigError("The grid is empty: a key has no value. Give each swept key at least one value")
    varied = [i for i in range(len(jobs[0])) if len({job[i] for job in jobs}) > 1]
    keys = {i: jobs[0][i].lstrip("+~").partition("=")[0] for i in varied}
    varied.sort(key=keys.__getitem__)  # the name does not depend on the order of the axes
    for key in keys.values():
        if key.startswith(("sweep.", "hydra.")):
            raise ConfigError(f"{key} cannot be swept: it applies to the whole sweep, not to a run. Give it one value")
    entries: dict[str, Entry] = {}
    for job in jobs:
        swept = [job[i] for i in varied]
        name = directory_name(swept)
        entries.setdefault(name, Entry(directory=name, overrides=list(job), swept=swept))
    return list(entries.values())


def latest(overrides: Sequence[Override]) -> list[Override]:
    """The last override of each key, whichever of the prefixes ``+`` and ``++`` it has."""
    return list({(o.key_or_group, o.package, o.is_delete()): o for o in overrides}.values())


def own_grid(params: Any) -> list[str]:
    """The overrides in ``hydra.sweeper.params``, the grid of an experiment file.

    Raises:
        ConfigError: It is no mapping.
    """
    if not isinstance(params, Mapping):
        raise ConfigError(f"hydra.sweeper.params must be keys with values, got {echo(str(params))}. Leave it out")
    return [f"{key}={value}" for key, value in params.items()]


def check_values(overrides: Sequence[Override]) -> None:
    """Checks that each override lists its values, and that there are not too many of them all together.

    ``lr=interval(1e-4,1e-3)`` lists none, and ``seed=range(0,inf)`` would be listed until the memory is full.

    Raises:
        ConfigError: With one line for every such override, or about their number.
    """
    lines, combinations = [], 1
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if override.is_interval_sweep():
            lines.append(
                f"{echo(override.input_line or '')} lists no values. A grid needs them: write {key}=A,B,C, "
                f"or {key}=range(START,STOP,STEP)"
            )
        elif isinstance(value, RangeSweep):
            start, stop, step = (number or 0 for number in (value.start, value.stop, value.step))
            if not step or any(isinstance(n, float) and not math.isfinite(n) for n in (start, stop, step)):
                lines.append(
                    f"{echo(override.input_line or '')} must have a finite start and stop, and a step other than 0. "
                    f"Try {key}=range(1,4)"
                )
            else:
                combinations *= max(0, math.ceil((Fraction(stop) - Fraction(start)) / Fraction(step)))
        elif isinstance(value, ChoiceSweep):
            combinations *= len(value.list)
    if lines:
        raise ConfigError("\n".join(lines))
    if combinations > _MOST_RUNS:
        raise ConfigError(f"The grid has more than {_MOST_RUNS} runs. Give fewer values, or several sweeps")
