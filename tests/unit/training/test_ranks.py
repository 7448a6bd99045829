"""Ranks that train one run after another; a script takes the place of the program that trains."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from llm_cls.errors import DataError, LostRankError, RankError, RunInterrupted
from llm_cls.training import launch
from llm_cls.training.rank import _train
from llm_cls.training.run import _train_in_ranks
from tests.integration.processes import alive

SCRIPT = f"""#!{sys.executable}
import json, os, pathlib, signal, socket, sys, time
connection = socket.socket(fileno=os.dup(0))
requests = connection.makefile("r")
rank, directory = os.environ["RANK"], json.loads(requests.readline() or '""')
while directory:
    folder = pathlib.Path(directory)
    with (folder / f"rank-{{rank}}").open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    if (folder / f"do-{{rank}}").exists():
        while len(list(folder.glob("rank-*"))) < int(os.environ["WORLD_SIZE"]):  # all have begun
            time.sleep(0.01)
        exec((folder / f"do-{{rank}}").read_text())
    connection.sendall(b"\\n")
    directory = json.loads(requests.readline() or '""')
"""


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[launch.Ranks]:
    script = tmp_path / "rank"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 5.0)
    ranks = launch.Ranks()
    yield ranks
    ranks.end()


def run(ranks: launch.Ranks, folder: Path, name: str, devices: int = 2, timeout: float = 600, **do: str) -> list[int]:
    """Trains the run ``name`` and returns the processes that did so last; ``do_1="..."``: what rank 1 does in it."""
    path = folder / name
    path.mkdir(exist_ok=True)
    for rank, what in do.items():
        (path / rank.replace("_", "-")).write_text(what)
    ranks.train(path, devices, timeout)
    return pids(path, devices)


def pids(path: Path, devices: int = 2) -> list[int]:
    return [int((path / f"rank-{rank}").read_text().splitlines()[-1]) for rank in range(devices)]


def test_they_are_started_once_and_end_when_asked(ranks: launch.Ranks, tmp_path: Path) -> None:
    first = run(ranks, tmp_path, "日本 1\n")
    assert len(set(first)) == 2 and all(map(alive, first)), "they wait for the next run"
    assert run(ranks, tmp_path, "2") == first and run(ranks, tmp_path, "3") == first
    ranks.end()
    assert not any(map(alive, first))
    again = run(ranks, tmp_path, "4")
    assert not set(again) & set(first)


def test_they_can_be_started_before_their_run(
    ranks: launch.Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks.start(2, 600)
    started = [rank.process.pid for rank in ranks._ranks]
    monkeypatch.setenv("SET_BY_A_LIBRARY", "1")  # as it is imported
    ranks.libraries_loaded()
    assert run(ranks, tmp_path, "1") == run(ranks, tmp_path, "2") == started


def test_without_a_run_they_are_not_waited_for(
    ranks: launch.Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rank").write_text(f"{SCRIPT.splitlines()[0]}\nwhile True: pass\n")  # as it does while it loads
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 600.0)
    ranks.libraries_loaded()  # there are none
    ranks.start(2, 600)
    started = [rank.process.pid for rank in ranks._ranks]
    ranks.end()
    assert not any(map(alive, started))


def test_all_of_them_are_started_or_none(ranks: launch.Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = launch.RankProcess({"RANK": "0"})
    monkeypatch.setattr(launch, "RankProcess", Mock(side_effect=[one, BlockingIOError("no more processes")]))
    with pytest.raises(BlockingIOError):
        ranks.start(2, 600)
    assert not alive(one.process.pid)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "rank"))
    assert len(set(run(ranks, tmp_path, "1"))) == 2


def test_a_run_of_its_own_has_ranks_of_its_own(ranks: launch.Ranks, tmp_path: Path) -> None:
    launch.launch_ranks(tmp_path, 2, 600)
    assert not any(map(alive, pids(tmp_path)))


def test_other_conditions_need_other_ranks(
    ranks: launch.Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [run(ranks, tmp_path, "1")]
    seen.append(run(ranks, tmp_path, "2", devices=3))
    seen.append(run(ranks, tmp_path, "3", devices=3, timeout=60))
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    seen.append(run(ranks, tmp_path, "4", devices=3, timeout=60))
    monkeypatch.chdir(tmp_path / "1")
    seen.append(run(ranks, tmp_path, "5", devices=3, timeout=60))
    assert [len(set(one)) for one in seen] == [2, 3, 3, 3, 3]
    assert len({pid for one in seen for pid in one}) == 14, "none of them is used again"
    assert not any(alive(pid) for one in seen[:-1] for pid in one)
    assert run(ranks, tmp_path, "6", devices=3, timeout=60) == seen[-1]


@pytest.mark.parametrize(
    ("does", "error", "said"),
    [
        ("sys.exit(3)", RankError, "^$"),
        ("1 / 0", RankError, "Rank 1 .* has crashed, as reported above"),
        ("os.kill(os.getpid(), signal.SIGKILL)", LostRankError, "Rank 1 .* was killed by SIGKILL"),
        ("sys.exit(75)", RunInterrupted, "Interrupted"),
    ],
)
def test_a_failed_run_ends_them_and_the_next_one_gets_new_ones(
    ranks: launch.Ranks, tmp_path: Path, does: str, error: type[BaseException], said: str
) -> None:
    first = run(ranks, tmp_path, "1")
    with pytest.raises(error, match=said):
        run(ranks, tmp_path, "2", do_0="time.sleep(600)", do_1=does)
    assert pids(tmp_path / "2") == first and not any(map(alive, first))
    second = run(ranks, tmp_path, "3")
    assert not set(second) & set(first)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_lost_between_runs_affects_none(
    ranks: launch.Ranks, tmp_path: Path, number: signal.Signals
) -> None:
    first = run(ranks, tmp_path, "1")
    os.kill(first[1], number)
    os.waitid(os.P_PID, first[1], os.WEXITED | os.WSTOPPED | os.WNOWAIT)
    second = run(ranks, tmp_path, "2")
    assert not set(second) & set(first) and not any(map(alive, first))


def test_one_that_stops_in_a_later_run_is_named(ranks: launch.Ranks, tmp_path: Path) -> None:
    first = run(ranks, tmp_path, "1", timeout=1)
    stops = {"do_0": f"sys.exit({launch.EXIT_LOST})", "do_1": "os.kill(os.getpid(), signal.SIGSTOP)"}
    with pytest.raises(LostRankError, match=rf"Rank 1 \(pid {first[1]}\) was stopped by .*"):
        run(ranks, tmp_path, "2", timeout=1, **stops)
    assert not any(map(alive, first))


def test_a_signal_in_a_later_run(ranks: launch.Ranks, tmp_path: Path) -> None:
    first = run(ranks, tmp_path, "1")
    with pytest.raises(RunInterrupted, match="Interrupted by SIGTERM"):
        run(ranks, tmp_path, "2", do_0="os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)")
    assert not any(map(alive, first))


def test_a_rank_that_is_lost_after_the_result_does_not_matter(caplog: pytest.LogCaptureFixture) -> None:
    inputs, launch = Mock(), Mock(side_effect=LostRankError("Rank 1 was killed."))
    directory = Mock(has_metrics=True)
    assert _train_in_ranks(directory, inputs, launch) is directory.result.return_value
    assert caplog.messages == ["Rank 1 was killed. The run was complete by then"]
    with pytest.raises(LostRankError):
        _train_in_ranks(Mock(has_metrics=False), inputs, launch)


def test_a_rank_refuses_what_the_record_does_not_describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a file has changed since the command, which has written the record, read it."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("llm_cls.runs.state.read_files", lambda _: Mock(record=Mock(run_id="of other data")))
    monkeypatch.setattr("llm_cls.runs.config_file.read_config", Mock())
    monkeypatch.setattr("llm_cls.training.prepare.prepare", lambda *_: Mock(identity={}))
    with pytest.raises(DataError, match="have changed since this command read them"):
        _train(tmp_path, Mock())
