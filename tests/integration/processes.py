"""Helpers that wait for and inspect running processes and sweeps."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from llm_cls.runs.state import RunState
from llm_cls.runs.sweep import read_states
from tests.integration.conftest import TIMEOUT


def wait_for(path: Path, process: Any) -> None:
    """Waits until ``path``, which may have wildcards, exists; fails if the process ends first."""
    deadline = time.monotonic() + TIMEOUT
    while not list(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"{path} was not written: {process.communicate()[1]}")
        time.sleep(0.005)


def assert_interrupted(process: Any, number: signal.Signals, code: int) -> None:
    """The command of the sweep in ``sweep`` ends with ``code`` after a signal; one line tells how to resume."""
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, errors
    if code == 75:
        said = f"Error: Interrupted by {number.name}. Resume with the same command and hydra.sweep.dir=sweep"
        assert errors.splitlines() == [said]


def sweep_states(sweep: Path) -> dict[str, RunState]:
    """The state of each planned run by its folder, in the order of the plan."""
    return {run.entry.directory: run.state for run in read_states(sweep)}


def state_names(sweep: Path) -> list[str]:
    """The names of these states."""
    return [state.name for state in sweep_states(sweep).values()]


def children(pid: int) -> list[int]:
    """The pids of its child processes."""
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [other for other in found if _state_and_parent(other)[1:] == [str(pid)]]


def alive(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    return _state_and_parent(pid)[:1] not in ([], ["Z"])


def _state_and_parent(pid: int) -> list[str]:
    """State and parent pid; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (ProcessLookupError, FileNotFoundError):
        return []
