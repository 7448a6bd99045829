"""The section on provenance as data: configuration, software and hardware of the runs."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from llm_cls.config.messages import echo
from llm_cls.reporting.runs import Run
from llm_cls.reporting.tables import Column, Table


def provenance_tables(runs: Sequence[Run]) -> list[Table]:
    """A row for each run, the configuration common to all runs, and the versions of the software.

    Empty where no run has a readable configuration.
    """
    import pandas as pd  # takes 0.4 s, which --help should not

    known = [run for run in runs if run.config]
    if not known:
        return []
    configs = pd.DataFrame([{key: _shown(value) for key, value in run.config.items()} for run in known], dtype=object)
    constant = (configs.nunique() == 1) & configs.notna().all()
    common = tuple({"key": key, "value": configs[key].iloc[0]} for key in sorted(configs.columns[constant]))
    # logger.tags repeats the values of the sweep for W&B.
    varied = [key for key in sorted(configs.columns[~constant]) if key != "logger.tags"]
    versions: dict[str, Counter[str]] = {}
    for run in known:
        for name, version in (run.record.versions if run.record else {}).items():
            versions.setdefault(name, Counter())[str(version)] += 1
    software = tuple({"package": name, "version": _counted(found)} for name, found in sorted(versions.items()))
    note = "Configuration keys with one value in all runs."
    pair = (Column("key", "Key"), Column("value", "Value"))
    return [
        _runs_table(runs, varied),
        Table("common", "Common configuration", note, pair, common),
        Table("software", "Software", "", (Column("package", "Package"), Column("version", "Version")), software),
    ]


def _runs_table(runs: Sequence[Run], varied: Sequence[str]) -> Table:
    columns = (
        Column("run", "Run"),
        Column("state", "State"),
        Column("run_id", "run_id"),
        *(Column(f"config:{key}", key) for key in varied),
        Column("data", "Data digest"),
        Column("git_commit", "Commit"),
        Column("hardware", "Hardware"),
        Column("world_size", "Devices", "number"),
        Column("started_at", "Started"),
        Column("seconds", "Seconds", "number"),
        Column("tokens_per_second", "Tokens/s", "number"),
        Column("peak_memory_gib", "GiB", "number"),
    )
    note = "Configuration keys that vary between the runs, hardware, time and memory."
    return Table("runs", "Runs", note, columns, tuple(_run_row(run, varied) for run in runs))


def _run_row(run: Run, varied: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, "state": run.state}
    if run.config:
        row |= {f"config:{key}": _shown(run.config.get(key)) for key in varied}
    if (record := run.record) is not None:
        row |= {
            "run_id": record.run_id, "world_size": record.world_size, "data": record.data.digest[:12],
            "git_commit": (record.git_commit or "")[:12] or None, "started_at": _time(record.started_at),
            "hardware": None if record.hardware is None else str(record.hardware),
        }  # fmt: skip
    if (metrics := run.metrics) is not None:
        row["seconds"] = round(metrics.seconds.total, 1)
        for key, digits in (("peak_memory_gib", 2), ("tokens_per_second", None)):
            if (number := getattr(metrics, key)) is not None:
                row[key] = round(number, digits)
    return row


def _counted(found: Counter[str]) -> str:
    """The versions of a package; with the number of runs where they differ."""
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{version} ({n} run{'s' if n > 1 else ''})" for version, n in found.items())


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else echo(str(value))


def _time(text: str | None) -> str | None:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M") if text else None
    except ValueError:
        return text
