"""What tests see of running processes."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import TIMEOUT


def wait_for(path: Path, process: Any) -> None:
    """Until ``path``, which may have wildcards, exists; the process must still run then."""
    deadline = time.monotonic() + TIMEOUT
    while not list(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"{path} was not written: {process.communicate()[1]}")
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """The pids of its child processes."""
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [other for other in found if _state_and_parent(other)[1:] == [str(pid)]]


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    return _state_and_parent(pid)[:1] not in ([], ["Z"])


def _state_and_parent(pid: int) -> list[str]:
    """Nothing of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (ProcessLookupError, FileNotFoundError):
        return []
