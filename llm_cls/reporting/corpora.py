"""The runs that may be compared: those scored on the same data, and selected by the same score."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from llm_cls.errors import ConfigError
from llm_cls.metrics.selection import MONITORS
from llm_cls.reporting.names import full_name, name_setting
from llm_cls.reporting.runs import Run
from llm_cls.reporting.settings import REPLICATES, group
from llm_cls.reporting.tables import Column, Table

_RANKED = 3  # settings of each data set in the table of all data sets


def same_data(runs: Sequence[Run], wanted: str | None) -> list[Run]:
    """All runs, of which only those on one corpus stay scored: the wanted corpus, or the one with most runs.

    Runs on other splits or folds of a corpus belong together. Where two runs have the same split with different texts,
    the corpus changed between them, and only the runs on the more frequent version stay scored.

    Args:
        runs: All runs of the report.
        wanted: Name of the corpus as in ``run.json``, name of its file, or at least the first four characters of its
            digest.

    Raises:
        ConfigError: No scored run is on the wanted corpus.
    """
    sets = data_sets(runs)
    if wanted is not None:
        matching = [[run for run in found if _is_named(run, wanted)] for found in sets]
        if sets and not any(matching):
            known = dict.fromkeys(f"{data_name(run)} ({_digest(run)[:12]})" for found in sets for run in found)
            raise ConfigError(f"data must name the data of a finished run, got {wanted!r}. Known: {', '.join(known)}")
        sets = sorted((found for found in matching if found), key=len, reverse=True)
    kept = {id(run) for run in _one_version(sets[0])} if sets else set()
    return [run if not run.scored or id(run) in kept else _other(run) for run in runs]


def same_monitor(runs: Sequence[Run], wanted: str | None) -> list[Run]:
    """All runs, of which only those selected by one score stay scored: the wanted one, or that of most runs.

    Val figures of different kinds do not rank runs, and each kind selects other epochs.

    Raises:
        ConfigError: No scored run was selected by ``wanted``.
    """
    counts = Counter(run.monitor.name for run in runs if run.scored)
    if counts and wanted is not None and wanted not in counts:
        raise ConfigError(
            f"monitor must be the trainer.monitor of a finished run, got {wanted}. Known: {', '.join(counts)}"
        )
    chosen = wanted or next((name for name, _ in counts.most_common(1)), "f1")
    return [
        run.put_aside("other monitor", f"selected on val {run.monitor.title}: another report (monitor={name})")
        if run.scored and (name := run.monitor.name) != chosen
        else run
        for run in runs
    ]


def data_sets(runs: Sequence[Run]) -> list[list[Run]]:
    """The scored runs on each corpus, the corpus with most runs first."""
    first: dict[str, Any] = {}  # a file that was only renamed stays the same corpus
    found: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        if run.scored and run.record is not None:
            found[first.setdefault(run.record.data.digest, corpus_key(run))].append(run)
    return sorted(found.values(), key=len, reverse=True)


def data_note(runs: Sequence[Run], shown: Sequence[Run]) -> list[str]:
    """Which data sets there are, where there are several."""
    sets, kept = data_sets(runs), {run.name for run in shown if run.state != "other data"}
    if len(sets) < 2:
        return []
    parts = [
        f"{data_name(found[0])} ({len(found)} run{'s' if len(found) > 1 else ''}"
        f"{', this report' if any(run.name in kept for run in found) else ''})"
        for found in sets
    ]
    return [f"Runs on {len(sets)} data sets: {', '.join(parts)}. data=NAME reports on another one."]


def monitor_note(runs: Sequence[Run], shown: Sequence[Run]) -> list[str]:
    """How many runs are not ranked because another score selected them."""
    aside = {run.name for run in shown if run.state == "other monitor"}
    counts = Counter(run.monitor.name for run in runs if run.name in aside)
    return [
        f"{count} run{'s' if count > 1 else ''} selected on val {MONITORS[name].title} "
        f"{'are' if count > 1 else 'is'} listed, not ranked: monitor={name} ranks {'them' if count > 1 else 'it'}."
        for name, count in counts.items()
    ]


def data_sets_table(runs: Sequence[Run]) -> list[Table]:
    """The best settings on each data set, where there are several data sets."""
    sets = data_sets(runs)
    if len(sets) < 2:
        return []
    rows = []
    for found in sets:
        settings = sorted(group(same_monitor(_one_version(found), None)), key=lambda s: -s.goodness)
        for place, setting in enumerate(settings[:_RANKED], start=1):
            monitor = setting.monitor
            rows.append(
                {
                    "data": data_name(found[0]),
                    "place": place,
                    "setting": name_setting(setting, settings) if len(settings) > 1 else full_name(setting),
                    "monitor": monitor.title,
                    "val": monitor.show(setting.val_score),
                    "score": MONITORS[monitor.on_test].title,
                    "test": setting.score,
                    "low": setting.interval[0] if setting.interval else None,
                    "high": setting.interval[1] if setting.interval else None,
                    "runs": len(setting.runs),
                }
            )
    columns = (
        Column("data", "Data"), Column("place", "Place", "number"), Column("setting", "Setting"),
        Column("monitor", "Selected on"), Column("val", "Val", "number"), Column("score", "Score"),
        Column("test", "Test", "percent"), Column("low", "95 % low", "percent"),
        Column("high", "95 % high", "percent"), Column("runs", "Runs", "number"),
    )  # fmt: skip
    note = f"The {_RANKED} best settings on each data set, ranked on val. Scores on different data are not comparable."
    return [Table("data_sets", "Data sets", note, columns, tuple(rows))]


def data_name(run: Run) -> str:
    """The name of a run's data: of own texts that of the file, the training file, or the data set on the hub."""
    assert run.record is not None
    if dataset := run.config.get("data.dataset"):
        return "/".join(part for part in (dataset, run.config.get("data.subset")) if part)
    files = run.config.get("data.file") or run.config.get("data.train_file")
    first, *more = files if isinstance(files, list) else [files]
    return f"{PurePath(first).name}{f' and {len(more)} more' if more else ''}" if first else run.record.data.name


def corpus_key(run: Run) -> tuple[str, str, tuple[str, ...], int]:
    """Identifies a corpus independently of its split."""
    assert run.record is not None
    data = run.record.data
    return data.name, data_name(run), tuple(data.labels), data.n_train + data.n_val + data.n_test


def _one_version(runs: Sequence[Run]) -> list[Run]:
    """The runs on a corpus without those on the less frequent version of their split."""
    by_split: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        by_split[tuple(repr(run.config.get(key)) for key in REPLICATES if key != "seed")].append(run)
    kept = {(split, Counter(map(_digest, found)).most_common(1)[0][0]) for split, found in by_split.items()}
    return [run for split, found in by_split.items() for run in found if (split, _digest(run)) in kept]


def _digest(run: Run) -> str:
    return run.record.data.digest if run.record else ""


def _is_named(run: Run, wanted: str) -> bool:
    assert run.record is not None
    named = wanted in (run.record.data.name, data_name(run), PurePath(data_name(run)).stem)
    return named or (len(wanted) >= 4 and _digest(run).startswith(wanted))


def _other(run: Run) -> Run:
    assert run.record is not None
    data = run.record.data
    return run.put_aside(
        "other data", f"{data_name(run)}, {data.digest[:12]}, {data.n_test} test texts: another report"
    )
