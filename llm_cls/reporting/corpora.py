"""The runs that may be compared: those scored on the same data."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from llm_cls.errors import ConfigError
from llm_cls.reporting.runs import Run
from llm_cls.reporting.settings import REPLICATES


def same_data(runs: Sequence[Run], wanted: str | None) -> list[Run]:
    """All runs, of which only those on one corpus stay scored: the wanted corpus, or the one with most runs.

    Runs on other splits or folds of a corpus belong together. Where two runs have the same split with different texts,
    the corpus changed between them, and only the runs on the more frequent version stay scored.

    Args:
        runs: All runs of the report.
        wanted: Name of the corpus as in ``run.json``, or at least the first four characters of its digest.

    Raises:
        ConfigError: No scored run is on the wanted corpus.
    """
    scored = [run for run in runs if run.scored]
    known = {(r.record.data.name, r.record.data.digest) for r in scored if r.record}
    if wanted is not None:
        scored = [r for r in scored if r.record and (r.record.data.name == wanted or _starts(r, wanted))]
        if not scored and known:
            names = ", ".join(sorted(f"{name} ({digest[:12]})" for name, digest in known))
            raise ConfigError(f"data must name the corpus of a finished run, got {wanted!r}. Known: {names}")
    kept: set[int] = set()
    if scored:
        main = Counter(corpus_key(run) for run in scored).most_common(1)[0][0]
        by_split: dict[Any, list[Run]] = defaultdict(list)
        for run in scored:
            if corpus_key(run) == main:
                by_split[tuple(repr(run.config.get(key)) for key in REPLICATES if key != "seed")].append(run)
        for found in by_split.values():
            digest = Counter(run.record.data.digest for run in found if run.record).most_common(1)[0][0]
            kept |= {id(run) for run in found if run.record and run.record.data.digest == digest}
    return [run if not run.scored or id(run) in kept else _other(run) for run in runs]


def corpus_key(run: Run) -> tuple[str, tuple[str, ...], int]:
    """Identifies a corpus independently of its split."""
    assert run.record is not None
    data = run.record.data
    return data.name, tuple(data.labels), data.n_train + data.n_val + data.n_test


def _starts(run: Run, wanted: str) -> bool:
    return run.record is not None and len(wanted) >= 4 and run.record.data.digest.startswith(wanted)


def _other(run: Run) -> Run:
    assert run.record is not None
    data = run.record.data
    return run.put_aside("other data", f"{data.name}, {data.digest[:12]}, {data.n_test} test texts: another report")
