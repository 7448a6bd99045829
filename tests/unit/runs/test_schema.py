"""Run files as they are read back: what is whole passes, anything else is one line with its fix."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_cls.errors import ArtifactError
from llm_cls.runs.content import read_content
from llm_cls.runs.schema import Failure
from llm_cls.runs.state import read_files

FIGURES: dict[str, Any] = {"loss": 0.2, "accuracy": 0.9, "precision": 0.9, "recall": 0.9, "f1": 0.9}
NULL: dict[str, Any] = dict.fromkeys(FIGURES)
METRICS: dict[str, Any] = {
    "schema": 1, "status": "finished", "collapsed": False, "best_epoch": 1, "epochs_run": 2, "val": FIGURES | {"n": 3},
    "test": FIGURES | {"n": 3, "f1_ci95": [0.8, 1]}, "per_class": {}, "seconds": {"total": 4, "per_epoch": 2.0},
    "tokens_per_second": 1.5, "peak_memory_gib": 0.0,
}  # fmt: skip
RECORD: dict[str, Any] = {
    "schema": 1, "run_id": "0", "identity": {"trainer.max_epochs": 2, "seed": 1}, "overrides": ["seed=1"],
    "data": {"name": "sample", "digest": "d", "n_train": 8, "n_val": 3, "n_test": 3, "labels": ["x"]},
    "model": {"name": "m", "revision": None},
}  # fmt: skip
HISTORY: list[dict[str, Any]] = [
    {"epoch": epoch, "train_loss": None, "val": FIGURES, "lr": 1e-3, "seconds": 2.0} for epoch in (1, 2)
]


def write(run: Path, metrics: Any = METRICS, record: Any = RECORD, history: Any = HISTORY) -> Path:
    run.mkdir(exist_ok=True)
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
    return run


def test_test_scores_may_be_missing_where_there_are_no_test_texts(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"metrics\.json has 0 test texts, run\.json 3: they are of different runs"):
        read_files(write(tmp_path, METRICS | {"test": None}))
    record = RECORD | {"data": RECORD["data"] | {"n_test": 0}}
    assert read_files(write(tmp_path, METRICS | {"test": None}, record)).metrics is not None
    with pytest.raises(ArtifactError, match=r"metrics\.json has 3 test texts, run\.json 0"):
        read_files(write(tmp_path, METRICS, record))


def test_a_run_of_any_age_is_read(tmp_path: Path) -> None:
    found = read_files(tmp_path)
    assert (found.record, found.history, found.metrics) == (None, [], None), "not begun"
    found = read_files(write(tmp_path))
    assert found.record is not None and found.record.identity is not None and found.metrics is not None
    assert found.record.max_epochs == 2
    assert [epoch.val.f1 for epoch in found.history] == [0.9, 0.9]
    assert found.metrics.test.f1_ci95 == [0.8, 1.0]
    (tmp_path / "metrics.json").unlink()
    assert read_files(tmp_path).metrics is None, "not complete"


def test_a_diverged_run_has_no_scores(tmp_path: Path) -> None:
    nothing = {"val": NULL | {"n": 3}, "test": NULL | {"n": 3, "f1_ci95": None}, "best_epoch": None}
    found = read_files(write(tmp_path, METRICS | {"status": "diverged", "collapsed": True} | nothing)).metrics
    assert found is not None and found.val.f1 is None and found.test.f1_ci95 is None


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"status": "done"}, "status must be 'finished', 'diverged' or 'pruned', got 'done'"),
        ({"best_epoch": 0}, "best_epoch must be greater than or equal to 1, got 0"),
        ({"best_epoch": "1"}, "best_epoch must be a valid integer, got '1'"),
        ({"epochs_run": True}, "epochs_run must be a valid integer, got True"),
        ({"collapsed": None}, "collapsed must be a valid boolean, got None"),
        ({"val": FIGURES}, "val.n is missing"),
        ({"val": FIGURES | {"n": 3, "f1": 97.5}}, "val.f1 must be less than or equal to 1, got 97.5"),
        ({"val": FIGURES | {"n": 3, "f1": float("nan")}}, "val.f1 must be a finite number"),
        ({"val": FIGURES | {"n": 3, "f1": None}}, "val: accuracy, precision, recall and f1 must all be numbers"),
        ({"val": NULL | {"n": 3}}, "status is finished, but val.f1 is null"),
        ({"test": 1}, "test must be an object, got 1"),
        ({"test": FIGURES | {"n": 3, "f1_ci95": None}}, "test: f1 and f1_ci95 must both be numbers"),
        ({"test": FIGURES | {"n": 3, "f1_ci95": [0.5]}}, "test.f1_ci95 "),
        ({"seconds": {"total": -1.0}}, "seconds.total must be greater than or equal to 0, got -1.0"),
        ({"seconds": {"total": 1e300}}, "seconds.total must be less than or equal to 1000000000000, got 1e+300"),
        ({"epochs_run": 10**30}, "epochs_run must be less than 9223372036854775808, got 1000"),
    ],
)
def test_impossible_figures_are_refused(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    write(tmp_path, METRICS | changes)
    line = f"{tmp_path / 'metrics.json'} is damaged: {part}"
    with pytest.raises(ArtifactError) as caught:
        read_files(tmp_path)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("Restore it, or remove it and run again")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "not an object": lambda path: path.write_text("[1]"),
    "not JSON": lambda path: path.write_text("no"),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "5000 digits": lambda path: path.write_text('{"x": ' + "9" * 5000 + "}"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", ["run.json", "history.jsonl", "metrics.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line_with_its_fix(tmp_path: Path, name: str, damage: str) -> None:
    DAMAGES[damage](write(tmp_path) / name)
    with pytest.raises(ArtifactError) as caught:
        read_files(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and "\n" not in message and len(message) < 400
    assert "Restore it, or remove " in message


@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
def test_an_empty_file_is_damaged(tmp_path: Path, name: str) -> None:
    (write(tmp_path) / name).write_text("")
    with pytest.raises(ArtifactError, match="is damaged: Invalid JSON: EOF"):
        read_files(tmp_path)


def test_the_damaged_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, history=[HISTORY[0], {"epoch": 2, "seconds": 1.0}])
    with pytest.raises(ArtifactError, match=r"history.jsonl, line 2, is damaged: val is missing"):
        read_files(tmp_path)


def test_a_result_without_its_record_is_damaged(tmp_path: Path) -> None:
    (write(tmp_path) / "run.json").unlink()
    with pytest.raises(ArtifactError, match=r"run.json is missing, but there is a metrics.json"):
        read_files(tmp_path)


def test_huge_numbers_in_the_identity_are_damage(tmp_path: Path) -> None:
    write(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    record["identity"] = {"trainer.max_epochs": 1, "data.max_length": 10**4000}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"is damaged: identity: data.max_length is too large a number\. Restore"):
        read_files(tmp_path)


def test_the_fix_is_the_callers(tmp_path: Path) -> None:
    (tmp_path / "failed.json").write_text('{"reason": "why"}')
    with pytest.raises(ArtifactError) as caught:
        read_content(tmp_path / "failed.json", Failure, "Try again")
    assert str(caught.value) == f"{tmp_path / 'failed.json'} is damaged: exit_code is missing. Try again"
