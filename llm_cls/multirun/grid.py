"""The grid of a sweep: from the overrides of a command line to planned runs."""

from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from llm_cls.errors import ConfigError
from llm_cls.runs.sweep import Entry, directory_name


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


def refuse_intervals(overrides: Sequence[Override]) -> None:
    """Refuses ``lr=interval(1e-4,1e-3)``, which lists no values.

    Raises:
        ConfigError: With one line for every such override.
    """
    if lines := [
        f"{o.input_line} lists no values. A grid needs them: write {o.key_or_group}=A,B,C, "
        f"or {o.key_or_group}=range(START,STOP,STEP)"
        for o in overrides
        if o.is_interval_sweep()
    ]:
        raise ConfigError("\n".join(lines))
