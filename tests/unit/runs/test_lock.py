"""Locks whose holders do not respond."""

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Any

import filelock
import pytest

from llm_cls import locks
from llm_cls.errors import LockedError, ResourceError
from llm_cls.runs import layout, lock, sweep
from llm_cls.runs.lock import HolderWatch, hold
from llm_cls.signals import is_stopped
from tests.unit.runs.conftest import held

PLAN = [sweep.Entry(directory="seed=1", overrides=["seed=1"], swept=["seed=1"])]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_TOUCH_SECONDS", 0.05)
    monkeypatch.setattr(locks, "_BRIEF_SECONDS", 0.1)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    while not is_stopped(pid):
        time.sleep(0.01)


def test_nobody_waits_for_a_plan_that_a_stopped_process_holds(tmp_path: Path) -> None:
    path = tmp_path / f".{layout.PLAN}.lock"
    with held(path) as pid:
        stop(pid)
        with pytest.raises(ResourceError) as caught:
            sweep.write_plan(tmp_path, PLAN)
    assert str(caught.value) == (
        f"{path} has been held for 0.1 s by another process (pid {pid}, which is stopped). "
        "Continue or end that process, then start again"
    )
    assert caught.value.exit_code == 4
    sweep.write_plan(tmp_path, PLAN)


def test_a_holder_that_does_not_respond_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / layout.LOCK
    watch = HolderWatch(0.2)
    with held(path) as pid, pytest.raises(ResourceError) as caught:
        while True:
            watch.check([tmp_path])
            time.sleep(0.01)
    said = f"{path} is held by another process (pid {pid}), which has not responded for 0.2 s. Continue or end "
    assert str(caught.value).startswith(said) and caught.value.exit_code == 4


def test_a_holder_that_responds_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / layout.LOCK
    seen = set()
    watch = HolderWatch(60)
    with hold(tmp_path):
        while len(seen) < 3:  # forever, unless the file is touched again and again
            watch.check([tmp_path, tmp_path / "removed in the meantime"])
            seen.add(path.stat().st_mtime_ns)


def test_only_the_process_that_has_the_file_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / layout.LOCK
    with held(path) as pid:
        assert locks.holder(path) == f"another process (pid {pid})"
        monkeypatch.setattr(locks, "_has_open", lambda *_: False)  # a file of another file system has this number
        assert locks.holder(path) == "another process"
    assert locks.holder(tmp_path / "no such file") == "another process"


def test_a_directory_that_another_process_holds_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float | None] = []
    acquire = filelock.FileLock.acquire

    def note(own: filelock.FileLock, timeout: float | None = None, **options: Any) -> Any:
        waited.append(timeout)
        return acquire(own, timeout=timeout, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", note)
    with (
        held(tmp_path / layout.LOCK) as pid,
        pytest.raises(LockedError, match=rf"in use by .*pid {pid}"),
        hold(tmp_path),
    ):
        pass
    assert waited == [lock._MOMENT_SECONDS]


def test_a_reader_of_the_state_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_MOMENT_SECONDS", 0.01)
    path = tmp_path / layout.LOCK
    path.touch()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        tried = lock.is_locked

        def leave(directory: Path) -> bool:
            found = tried(directory)
            fcntl.flock(file, fcntl.LOCK_UN)
            return found

        monkeypatch.setattr(lock, "is_locked", leave)
        with hold(tmp_path):
            assert tried(tmp_path)
