"""The evaluations of runs in the report."""

import json
from pathlib import Path
from typing import Any

from llm_cls.reporting.analysis import analyse
from llm_cls.reporting.evaluations import evaluations_table
from llm_cls.reporting.page import render
from tests.unit.reporting.run_directories import make_run


def evaluate(run: Path, name: str, **changes: Any) -> Path:
    """An evaluation as ``llm_cls.evaluate`` writes it."""
    scores = {"loss": 0.5, "accuracy": 0.75, "precision": 0.7, "recall": 0.7, "f1": 0.7, "n": 8, "f1_ci95": [0.6, 0.8]}
    record = {
        "schema": 1, "run_id": json.loads((run / "run.json").read_text())["run_id"],
        "file": {"name": f"{name}<b>.csv", "sha256": "0" * 64, "bytes": 9}, "rows": 10, "unknown_labels": {"x": 2},
        "without_text": {}, "absent_labels": [], "scores": scores, "per_class": {}, "predictions_sha256": "0" * 64,
        "created_at": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip
    path = run / "evaluations" / name / "evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record | changes), encoding="utf-8")
    return path


def test_each_evaluation_is_a_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    assert evaluations_table(analyse(tmp_path, None, with_baseline=False).runs) is None
    assert "Evaluations" not in render(analyse(tmp_path, None, with_baseline=False), "x", "now")
    evaluate(run, "b")
    evaluate(run, "a")
    found = analyse(tmp_path, None, with_baseline=False)
    table = evaluations_table(found.runs)
    assert table is not None
    assert [row["file"] for row in table.rows] == ["a<b>.csv", "b<b>.csv"]
    assert table.rows[0] == {
        "file": "a<b>.csv", "run": "one", "n": 8, "accuracy": 0.75, "f1": 0.7, "low": 0.6, "high": 0.8, "not_scored": 2,
    }  # fmt: skip
    page = render(found, "x", "now")
    assert "<h2>Evaluations on other texts</h2>" in page and "a&lt;b&gt;.csv" in page and "70.00" in page


def test_a_damaged_evaluation_is_named_and_its_run_is_scored(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    evaluate(run, "a", run_id="other")
    found = analyse(tmp_path, None, with_baseline=False)
    table = evaluations_table(found.runs)
    assert [r.state for r in found.runs] == ["finished"] and table is not None and not table.rows
    assert "one/evaluations/a/evaluation.json belongs to run other" in table.note
