"""The processes of a run on several devices."""

import os
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest

from llm_cls import benchmark, predict, train
from llm_cls.cli import run_command
from llm_cls.errors import LostRankError, RankError, ResourceError, RunInterrupted
from llm_cls.runs.directory import RunDirectory
from llm_cls.training import launch
from llm_cls.training.failures import with_resume_command
from tests.integration.processes import alive


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, None),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 4),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, 1),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),  # the script of a job, which srun has not started
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, 2),
    ],
)
def test_who_has_started_the_ranks(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], ranks: int | None
) -> None:
    for name in ("LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.launched_world_size() == ranks


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({}, None),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}, None),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, None),
        ({"RANK": "x"}, "RANK must be a whole number >= 0, got 'x'. Unset"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK must be a whole number >= 0, got '-1'. Unset"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE must be a whole number >= 1, got ''. Unset"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number >= 1, got '0'"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE must be a whole number >= 1, got '999"),
        ({"MASTER_PORT": "abc"}, "MASTER_PORT must be a whole number >= 1, got 'abc'"),
        ({"SLURM_PROCID": "１"}, "SLURM_PROCID must be a whole number >= 0, got '１'"),
        ({"SLURM_NTASKS": "2(x3)"}, "SLURM_NTASKS must be a whole number >= 1, got '2(x3)'"),
        ({"SLURM_STEP_NUM_TASKS": "two"}, "SLURM_STEP_NUM_TASKS must be a whole number >= 1, got 'two'"),
        ({"RANK": "1"}, "RANK=1 needs LOCAL_RANK and a larger WORLD_SIZE"),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "RANK=2 needs LOCAL_RANK and a larger WORLD_SIZE"),
    ],
)
@pytest.mark.parametrize("command", [benchmark, predict, train])
def test_odd_variables_of_a_launcher_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: ModuleType,
    environment: dict[str, str],
    line: str | None,
) -> None:
    """They end every command that trains or computes, before anything is imported or written."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", *(n for n in os.environ if n.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if line is None:
        launch.check_launcher()
        return
    arguments = ["run=no", "input=no.csv", "output=no.csv"] if command is predict else []
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    assert run_command(command.main) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"Error: {line}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "devices", "threads"), [("8", 2, "4"), ("1", 2, "1"), ("5", 2, "2"), (None, 4, "3"), ("4,2", 4, "3")]
)
def test_ranks_share_the_threads_of_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None, devices: int, threads: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    started = Mock(return_value=Mock(poll=Mock(return_value=0)))
    monkeypatch.setattr(launch.subprocess, "Popen", started)
    monkeypatch.setattr(launch, "usable_cores", lambda: 12)
    launch.launch_ranks(tmp_path, devices, 600)
    environments = [call.kwargs["env"] for call in started.call_args_list]
    assert [environment["OMP_NUM_THREADS"] for environment in environments] == [threads] * devices
    assert [environment["RANK"] for environment in environments] == [str(rank) for rank in range(devices)]


@pytest.mark.parametrize(("limit", "enough"), [(20, False), (63, False), (64, True), (resource.RLIM_INFINITY, True)])
def test_ranks_need_open_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int, enough: bool) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    started = Mock(return_value=Mock(poll=Mock(return_value=0)))
    monkeypatch.setattr(launch.subprocess, "Popen", started)
    if enough:
        launch.launch_ranks(tmp_path, 2, 600)
    else:
        with pytest.raises(ResourceError, match=rf"needs 64 open files per process, this shell allows {limit}\. Raise"):
            launch.launch_ranks(tmp_path, 2, 600)
    assert started.called == enough


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Ranks that ignore SIGTERM, and of which the first one fails where ``fails`` exists."""
    script = tmp_path / "rank"
    script.write_text(
        f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder, rank = pathlib.Path(json.loads(sys.stdin.readline())), os.environ["RANK"]
(folder / f"began-{{rank}}").touch()
while rank == "0" and not (folder / "began-1").exists():
    time.sleep(0.01)
if rank == "0" and (folder / "fails").exists():
    sys.exit(4)
time.sleep(60)
(folder / f"ended-{{rank}}").touch()
"""
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return tmp_path


def send_when(path: Path, times: int) -> None:
    """Sends this process SIGTERM so often, once ``path`` exists."""

    def send() -> None:
        while not path.exists():
            time.sleep(0.01)
        for _ in range(times):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()


def test_a_signal_is_not_lost_while_failed_ranks_are_ended(stubborn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stubborn / "fails").touch()
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 3.0)
    ended = launch.end_processes

    def end(ranks: list[object], received: list[int]) -> None:
        (stubborn / "ending").touch()
        ended(ranks, received)  # type: ignore[arg-type]

    monkeypatch.setattr(launch, "end_processes", end)
    send_when(stubborn / "ending", 1)
    with pytest.raises(RunInterrupted, match="Interrupted by SIGTERM"):
        launch.launch_ranks(stubborn, 2, 600)


def test_the_failure_of_a_rank_is_that_of_the_run(stubborn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stubborn / "fails").touch()
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 0.1)
    with pytest.raises(RankError) as caught:
        launch.launch_ranks(stubborn, 2, 600)
    assert caught.value.exit_code == 4
    assert not (stubborn / "ended-1").exists(), "the other was not waited for"


def test_a_second_signal_ends_the_ranks_at_once(stubborn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 600.0)
    send_when(stubborn / "began-1", 2)
    with pytest.raises(RunInterrupted):
        launch.launch_ranks(stubborn, 2, 600)
    assert not list(stubborn.glob("ended-*")), "nor was their time waited for"


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Rank 1 does what the file ``rank-1`` says; rank 0 then ends as one that has lost another, or goes on."""
    script = tmp_path / "rank"
    script.write_text(
        f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
folder, rank = pathlib.Path(json.loads(sys.stdin.readline())), os.environ["RANK"]
(folder / f"pid-{{rank}}").write_text(str(os.getpid()))
if rank == "1":
    (folder / "ready").touch()
    exec((folder / "rank-1").read_text())
while not (folder / "ready").exists():
    time.sleep(0.01)
sys.exit({launch.EXIT_LOST})
"""
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 5.0)
    return tmp_path


@pytest.mark.parametrize(
    ("rank_1", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL, as .* out of main memory. Try fewer"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV$"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "was stopped by .*trainer.timeout_seconds=1\\), and it was ended$"),
        ("time.sleep(60)", "did not respond; .* try a larger trainer.timeout_seconds$"),
    ],
)
def test_a_lost_rank_is_named(two_ranks: Path, rank_1: str, said: str) -> None:
    (two_ranks / "rank-1").write_text(rank_1)
    with pytest.raises(LostRankError) as caught:
        launch.launch_ranks(two_ranks, 2, 1)
    pid = (two_ranks / "pid-1").read_text()
    assert re.search(rf"^Rank 1 \(pid {pid}\) {said}", str(caught.value)), caught.value
    assert caught.value.exit_code == 4
    assert not alive(int(pid)), "it was ended, stopped or not"


@pytest.mark.parametrize(("rank_1", "code"), [("time.sleep(0.5); sys.exit(3)", 3), ("time.sleep(0.5); 1 / 0", 1)])
def test_a_rank_that_fails_itself_counts_more_than_those_that_lose_it(two_ranks: Path, rank_1: str, code: int) -> None:
    (two_ranks / "rank-1").write_text(rank_1)
    with pytest.raises(RankError) as caught:
        launch.launch_ranks(two_ranks, 2, 600)
    assert caught.value.exit_code == code


def test_all_ranks_lost(two_ranks: Path) -> None:
    (two_ranks / "rank-1").write_text("")
    with pytest.raises(LostRankError, match="have lost the connection to one another"):
        launch.launch_ranks(two_ranks, 2, 600)


def test_a_lost_rank_is_resumable_from_a_checkpoint_alone(tmp_path: Path) -> None:
    error = LostRankError("Rank 1 was killed.")
    assert with_resume_command(error, tmp_path) is error
    directory = RunDirectory(tmp_path)
    directory.new_checkpoint(1).parent.mkdir()
    directory.new_checkpoint(1).touch()
    assert with_resume_command(error, tmp_path) is error, "it is not sealed"
    directory.keep_checkpoint(1, None)
    conclusion = with_resume_command(error, tmp_path)
    assert isinstance(conclusion, RunInterrupted) and conclusion.exit_code == 75
    assert str(conclusion).startswith("Rank 1 was killed. Resume with the same command and ")
