"""How far the runs of a sweep are, and how it ends: which of its runs failed, and what to type next."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_cls.cli import shown_path
from llm_cls.errors import SweepError
from llm_cls.runs.sweep import Entry, PlannedRun, progress_line, read_states, write_plan

log = logging.getLogger(__name__)


def current_states(directory: Path, entries: Sequence[Entry]) -> list[PlannedRun]:
    """The states of these runs of a sweep."""
    mine = {entry.directory for entry in entries}
    while len(runs := [run for run in read_states(directory) if run.entry.directory in mine]) < len(mine):
        write_plan(directory, entries)  # it was removed
    return runs


def conclude(
    directory: Path, runs: Sequence[PlannedRun], refused: Mapping[str, str], reasons: Mapping[str, str]
) -> None:
    """Says how many runs are complete.

    Args:
        directory: The folder of the sweep.
        runs: Its runs.
        refused: By their folders, why they were left as they are: another run is there, or a damaged one.
        reasons: By their folders, why their processes failed, where it is not in the folder.

    Raises:
        SweepError: Some runs failed.
    """
    if len(refused) < len(runs):
        log.info("%s", progress_line([run for run in runs if run.entry.directory not in refused]))
        where = shlex.quote(f"dir={shown_path(directory)}")
        log.info("Next:\n  python -m llm_cls.status %s\n  python -m llm_cls.report %s", where, where)
    failed = []
    for run in runs:
        name = run.entry.directory
        if name in refused:
            failed.append(refused[name])
        elif not run.state.is_complete:
            reason = reasons.get(name) or run.state.reason or "its process has died"
            failed.append(f"{name}: {run.state.name}: {reason}")
    if failed:
        lines = "\n".join([f"{len(failed)} of {len(runs)} runs of {directory} failed", *failed])
        raise SweepError(lines, refused, reasons)
