"""The plan of a sweep and the state of each of its runs."""

import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from llm_cls.errors import ArtifactError
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.layout import FAILURE, LOCK, PLAN
from llm_cls.runs.schema import Durations, Metrics, TestScores, ValScores
from llm_cls.runs.state import RunState, StateName
from llm_cls.runs.sweep import (
    Entry,
    PlannedRun,
    directory_name,
    duration,
    progress_line,
    read_plan,
    read_states,
    remaining_seconds,
    write_plan,
)
from tests.unit.runs.conftest import held

COMPLETE = ("finished", "diverged", "pruned")


def entry(name: str) -> Entry:
    return Entry(directory=name, overrides=[f"x={name}"], swept=[f"x={name}"])


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
        ["x=" + "日本語" * 40],
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


def write_run(run: Path, status: str = "") -> None:
    """A run after its first epoch of four, or, with a status, one that is over."""
    data = {"name": "sample", "digest": "d", "n_train": 8, "n_val": 1, "n_test": 1, "labels": ["x"]}
    model, identity = {"name": "ja-mini"}, {"trainer.max_epochs": 4}
    write(run / "run.json", {"run_id": run.name, "data": data, "model": model, "identity": identity})
    write(run / "history.jsonl", {"epoch": 1, "val": figures(0.5), "seconds": 3.0})
    (run / LOCK).touch()
    if status:
        val = figures(None if status == "diverged" else 0.75) | {"n": 1}
        test = val | {"f1_ci95": None if status == "diverged" else [0.5, 0.9]}
        result = {"status": status, "collapsed": False, "best_epoch": 1, "epochs_run": 2, "seconds": {"total": 7.0}}
        write(run / "metrics.json", result | {"val": val, "test": test})


def fail(run: Path, reason: str, exit_code: int) -> None:
    run.mkdir(exist_ok=True)
    RunDirectory(run).record_failure(reason, exit_code)


def figures(value: float | None) -> dict[str, object]:
    return dict.fromkeys(("accuracy", "precision", "recall", "f1"), value)


def test_an_unchanged_plan_is_not_rewritten(tmp_path: Path) -> None:
    write_plan(tmp_path, [entry("a"), entry("b")])
    os.utime(tmp_path / PLAN, (1, 1))
    (tmp_path / f".{PLAN}.lock").unlink(missing_ok=True)
    write_plan(tmp_path, [entry("b")])
    assert [path.name for path in tmp_path.iterdir()] == [PLAN], "without a lock, which a read-only folder lacks"
    assert (tmp_path / PLAN).stat().st_mtime == 1
    write_plan(tmp_path, [Entry(directory="b", overrides=["other"], swept=[])])
    assert read_plan(tmp_path) == [entry("a"), Entry(directory="b", overrides=["other"], swept=[])]


def test_states(tmp_path: Path) -> None:
    names = ["planned", "running", "interrupted", "failed", "finished", "pruned", "diverged"]
    write_plan(tmp_path, [entry(name) for name in names])
    for name in names[1:]:
        write_run(tmp_path / name, name if name in COMPLETE else "")
    fail(tmp_path / "failed", "Out of memory", 4)
    fail(tmp_path / "finished", "an earlier attempt", 4)
    (tmp_path / "planned").mkdir()
    with held(tmp_path / "running" / LOCK):
        states = {run.entry.directory: run.state for run in read_states(tmp_path)}
    assert {name: state.name for name, state in states.items()} == {name: name for name in names}
    assert (states["running"].epochs, states["running"].max_epochs, states["running"].val_score) == (1, 4, 0.5)
    assert (states["failed"].reason, states["failed"].exit_code) == ("Out of memory", 4)
    assert (states["finished"].val_score, states["finished"].seconds, states["finished"].reason) == (0.75, 7.0, "")
    assert states["diverged"].val_score is None
    assert {(states[name].epochs, states[name].max_epochs) for name in COMPLETE} == {(2, 4)}, "of those planned"
    after = {run.entry.directory: run.state.name for run in read_states(tmp_path)}
    assert after["running"] == "interrupted", "the lock of a process that died is free"


@pytest.mark.parametrize("name", ["run.json", "history.jsonl", "metrics.json", FAILURE])
def test_a_damaged_run_does_not_affect_others(tmp_path: Path, name: str) -> None:
    write_plan(tmp_path, [entry("bad"), entry("good")])
    for run in ("bad", "good"):
        write_run(tmp_path / run, "finished" if name == "metrics.json" else "")
    fail(tmp_path / "bad", "why", 1)
    (tmp_path / "bad" / name).write_text("{", encoding="utf-8")
    bad, good = read_states(tmp_path)
    state = bad.state
    assert (state.name, state.exit_code, state.is_complete, bad.is_permanent_failure) == ("damaged", 5, False, False)
    assert state.reason.startswith(f"{tmp_path / 'bad' / name}") and "is damaged: " in state.reason
    assert good.state.name in ("finished", "interrupted")
    assert "1 damaged" in progress_line([bad, good])
    with held(tmp_path / "bad" / LOCK):
        assert read_states(tmp_path)[0].state.name == "running", "its process may mend it still"


def test_a_result_clears_an_earlier_failure(tmp_path: Path) -> None:
    write_plan(tmp_path, [entry("a")])
    write_run(tmp_path / "a", "finished")
    (tmp_path / "a" / FAILURE).write_text("{", encoding="utf-8")
    assert read_states(tmp_path)[0].state.name == "finished"


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "EOF"),
        ("[]", "got []"),
        ('{"directory": "b", "overrides": []}', "swept is missing"),
        ('{"directory": 3, "overrides": [], "swept": []}', "directory must be a valid string, got 3"),
        ('{"directory": "../b", "overrides": [], "swept": []}', "directory: must be the name of a folder"),
        ('{"directory": ".", "overrides": [], "swept": []}', "directory: must be the name of a folder"),
        ('{"directory": "", "overrides": [], "swept": []}', "directory: must be the name of a folder"),
    ],
)
def test_a_damaged_plan_names_the_line(tmp_path: Path, line: str, part: str) -> None:
    write_plan(tmp_path, [entry("a")])
    with (tmp_path / "sweep.jsonl").open("a", encoding="utf-8") as plan:
        plan.write(line + "\n")
    with pytest.raises(ArtifactError) as caught:
        write_plan(tmp_path, [entry("c")])
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'sweep.jsonl'}, line 2, is damaged: ") and part in message
    assert "\n" not in message and message.endswith("finished runs stay as they are")
    assert (tmp_path / "sweep.jsonl").read_text(encoding="utf-8").endswith(line + "\n"), "nothing is written over it"


def test_a_file_where_the_folder_of_a_sweep_belongs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_plan(tmp_path / "file") == []
    with pytest.raises(FileExistsError):
        write_plan(tmp_path / "file", [entry("a")])


@pytest.mark.parametrize(("code", "hopeless"), [(1, False), (2, True), (3, True), (4, False), (5, False)])
def test_hopeless_failures_are_not_retried(tmp_path: Path, code: int, hopeless: bool) -> None:
    write_plan(tmp_path, [entry("a")])
    fail(tmp_path / "a", "why", code)
    assert read_states(tmp_path)[0].is_permanent_failure is hopeless
    assert (tmp_path / "a" / FAILURE).is_file()


def planned_run(directory: str, name: StateName, epochs: int, seconds: float) -> PlannedRun:
    """A run of ten epochs in the given state."""
    record = Mock(max_epochs=10)
    if name in COMPLETE:
        scores = {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "n": 9}
        metrics = Metrics(
            status=name, collapsed=False, best_epoch=1, epochs_run=epochs, val=ValScores(**scores),
            test=TestScores(**scores, f1_ci95=[0.4, 0.6]), seconds=Durations(total=seconds),
        )  # fmt: skip
        return PlannedRun(entry(directory), RunState(name, record, (), metrics))
    history = [Mock(seconds=seconds / max(epochs, 1))] * epochs
    return PlannedRun(entry(directory), RunState(name, record, history))


def test_expected_time() -> None:
    def states(*given: tuple[StateName, int, float]) -> list[PlannedRun]:
        return [planned_run(str(i), name, epochs, seconds) for i, (name, epochs, seconds) in enumerate(given)]

    assert remaining_seconds(states(("planned", 0, 0))) is None, "nothing to go by"
    assert remaining_seconds(states(("finished", 10, 60))) is None, "nothing left"
    assert remaining_seconds(states(("finished", 10, 60), ("pruned", 1, 20), ("planned", 0, 0))) == pytest.approx(40)
    assert remaining_seconds(states(("finished", 10, 60), ("running", 5, 30))) == pytest.approx(30)
    two = states(("finished", 10, 60), ("running", 0, 0), ("running", 0, 0), ("planned", 0, 0))
    assert remaining_seconds(two) == pytest.approx(90), "two at a time"
    assert progress_line(two) == "1 of 4 runs are done, 2 running, about 2 min left"


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (89, "89 s"), (600, "10 min"), (11_100, "3 h 5 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
