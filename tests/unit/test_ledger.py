"""The state of every planned run, from what lies on the disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_cls.ledger import (
    FAILED,
    LOCK,
    PLAN,
    Entry,
    State,
    directory_name,
    duration,
    progress_line,
    read_plan,
    read_states,
    record_failure,
    remaining_seconds,
    write_plan,
)


def entry(name: str) -> Entry:
    return Entry(name, (f"x={name}",), (f"x={name}",))


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def test_names_are_safe_and_differ() -> None:
    swept = [
        ["optimizer.lr=0.001", "template=2"],
        ["model.name=a/b"],
        ["model.name=a_b"],
        ["data.file=../../x"],
        ["data.label=記事"],
        ["x=" + "a" * 400],
        ["x=" + "a" * 399 + "b"],
        ["x='a b'"],
        [".."],
        [],
    ]
    names = [directory_name(s) for s in swept]
    assert names[0] == "optimizer.lr=0.001,template=2"
    assert len(set(names)) == len(names)
    for name in names:
        assert "/" not in name and not name.startswith(".") and 0 < len(name.encode()) < 200


def test_a_plan_grows_and_keeps_its_order(tmp_path: Path) -> None:
    write_plan(tmp_path, [entry("b"), entry("a")])
    write_plan(tmp_path, [entry("a"), entry("c")])
    assert read_plan(tmp_path) == [entry("b"), entry("a"), entry("c")]
    assert read_plan(tmp_path / "none") == []


def test_a_plan_that_is_known_already_is_left_alone(tmp_path: Path) -> None:
    write_plan(tmp_path, [entry("a"), entry("b")])
    os.utime(tmp_path / PLAN, (1, 1))
    write_plan(tmp_path, [entry("b")])
    assert (tmp_path / PLAN).stat().st_mtime == 1
    write_plan(tmp_path, [Entry("b", ("other",), ())])
    assert read_plan(tmp_path) == [entry("a"), Entry("b", ("other",), ())]


def test_states(tmp_path: Path) -> None:
    names = ["planned", "running", "interrupted", "failed", "finished", "pruned", "diverged"]
    write_plan(tmp_path, [entry(name) for name in names])
    epoch = {"epoch": 1, "val": {"f1": 0.5}, "seconds": 3.0}
    for name in names[1:]:
        write(tmp_path / name / "run.json", {"identity": {"trainer.max_epochs": 4}})
        write(tmp_path / name / "history.jsonl", epoch)
        (tmp_path / name / LOCK).touch()
    record_failure(tmp_path / "failed", "Out of memory", 4)
    record_failure(tmp_path / "finished", "an earlier attempt", 4)
    for name in names[4:]:
        f1 = None if name == "diverged" else 0.75
        write(tmp_path / name / "metrics.json", {"status": name, "val": {"f1": f1}, "seconds": {"total": 7.0}})
    (tmp_path / "planned").mkdir()
    program = "import sys, filelock as f; x = f.FileLock(sys.argv[1]); x.acquire(); print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "running" / LOCK)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    states = {state.entry.directory: state for state in read_states(tmp_path)}
    assert {name: state.name for name, state in states.items()} == {name: name for name in names}
    assert (states["running"].epochs, states["running"].max_epochs, states["running"].val_f1) == (1, 4, 0.5)
    assert (states["failed"].reason, states["failed"].exit_code) == ("Out of memory", 4)
    assert states["finished"].val_f1 == 0.75 and states["finished"].seconds == 7.0
    assert states["diverged"].val_f1 is None
    holder.kill()
    holder.wait()
    after = {state.entry.directory: state.name for state in read_states(tmp_path)}
    assert after["running"] == "interrupted", "the lock of a process that died is free"


@pytest.mark.parametrize(("code", "hopeless"), [(1, False), (2, True), (3, True), (4, False), (5, False)])
def test_what_is_not_worth_another_try(tmp_path: Path, code: int, hopeless: bool) -> None:
    write_plan(tmp_path, [entry("a")])
    record_failure(tmp_path / "a", "why", code)
    assert read_states(tmp_path)[0].is_hopeless is hopeless
    assert (tmp_path / "a" / FAILED).is_file()


def test_expected_time() -> None:
    def states(*given: tuple[str, int, float]) -> list[State]:
        return [State(entry(str(i)), name, epochs, 10, 0.5, s) for i, (name, epochs, s) in enumerate(given)]

    assert remaining_seconds(states(("planned", 0, 0))) is None, "nothing to go by"
    assert remaining_seconds(states(("finished", 10, 60))) is None, "nothing left"
    assert remaining_seconds(states(("finished", 10, 60), ("pruned", 1, 20), ("planned", 0, 0))) == pytest.approx(40)
    assert remaining_seconds(states(("finished", 10, 60), ("running", 5, 30))) == pytest.approx(30)
    two = states(("finished", 10, 60), ("running", 0, 0), ("running", 0, 0), ("planned", 0, 0))
    assert remaining_seconds(two) == pytest.approx(90), "two at a time"
    assert progress_line(two) == "1 of 4 runs are done, 2 running, about 2 min to go"


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (89, "89 s"), (600, "10 min"), (11_100, "3 h 5 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
