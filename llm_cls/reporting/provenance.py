"""What each run was made from and on."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from llm_cls.reporting.html import rows_table
from llm_cls.reporting.markup import Safe, join, tag
from llm_cls.reporting.runs import Run
from llm_cls.reporting.tables import Column


def provenance_section(runs: Sequence[Run]) -> Safe:
    """The configuration common to all runs, what varies, the software, and a row for each run."""
    known = [run for run in runs if run.config]
    if not known:
        return tag("p", "No run has a readable configuration.")
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for run in known:
        for key, value in run.config.items():
            values[key][_shown(value)] += 1
    common = [
        {"key": key, "value": next(iter(found))}
        for key, found in sorted(values.items())
        if len(found) == 1 and found.total() == len(known)
    ]
    varied = [key for key, found in sorted(values.items()) if len(found) > 1 or found.total() < len(known)]
    varied = [key for key in varied if key != "logger.tags"]  # the swept values once more, for W&B
    software: dict[str, Counter[str]] = defaultdict(Counter)
    for run in known:
        if run.record is not None:
            for name, version in run.record.versions.items():
                software[name][str(version)] += 1
    versions = [
        {"package": name, "version": ", ".join(v if len(found) == 1 else f"{v} ({n} runs)" for v, n in found.items())}
        for name, found in sorted(software.items())
    ]
    pair = (Column("key", "Key"), Column("value", "Value"))
    return join([
        tag("h3", "Each run"),
        _runs_table(runs, varied),
        tag("h3", "Common to all runs"),
        rows_table("Common configuration", "Configuration keys with one value in all runs.", pair, common),
        tag("h3", "Software"),
        rows_table("Software", "", (Column("package", "Package"), Column("version", "Version")), versions),
    ])  # fmt: skip


def _runs_table(runs: Sequence[Run], varied: Sequence[str]) -> Safe:
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
    rows = []
    for run in runs:
        row: dict[str, Any] = {"run": run.name, "state": run.state}
        row |= {f"config:{key}": _shown(run.config.get(key)) for key in varied if run.config}
        if run.record is not None:
            row |= {key: getattr(run.record, key) for key in ("run_id", "world_size")}
            row |= {"hardware": None if run.record.hardware is None else str(run.record.hardware)}
            row |= {"data": run.record.data.digest[:12], "git_commit": (run.record.git_commit or "")[:12] or None}
            row |= {"started_at": _time(run.record.started_at)}
        if run.metrics is not None:
            row["seconds"] = round(run.metrics.seconds.total, 1)
            if run.metrics.peak_memory_gib is not None:
                row["peak_memory_gib"] = round(run.metrics.peak_memory_gib, 2)
            if run.metrics.tokens_per_second is not None:
                row["tokens_per_second"] = round(run.metrics.tokens_per_second)
        rows.append(row)
    note = "Configuration keys that vary between the runs, where the runs ran, and what they took."
    shown = [column for column in columns if any(row.get(column.key) is not None for row in rows)]
    return rows_table("Runs", note, shown, rows)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _time(text: str | None) -> str | None:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M") if text else None
    except ValueError:
        return text
