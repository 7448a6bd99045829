"""The smallest sufficient model: cheap settings that are as good as the winner, as far as the texts can tell."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_cls.metrics.scores import Scores
from llm_cls.reporting import analysis
from llm_cls.reporting.analysis import analyse
from llm_cls.reporting.baseline import Baseline
from llm_cls.reporting.page import render
from llm_cls.reporting.tables import Table
from tests.jsonl import read_jsonl
from tests.unit.reporting.run_directories import make_run, replace_json


def costed(directory: Path, model: str, gib: float, test: float | None, **arguments: Any) -> Path:
    """A run of a model with its peak memory and the seconds in which it has scored 180 test texts."""
    run = make_run(directory / model, model=model, **arguments)
    seconds = json.loads((run / "metrics.json").read_text())["seconds"] | ({} if test is None else {"test": test})
    replace_json(run / "metrics.json", peak_memory_gib=gib, seconds=seconds)
    return run


def table_of(directory: Path, with_baseline: bool = False) -> Table | None:
    return next((t for t in analyse(directory, None, with_baseline).tables if t.name == "sufficient"), None)


def test_the_cheapest_sufficient_setting_comes_first(tmp_path: Path) -> None:
    costed(tmp_path, "large", 40.0, 9.0, quality=0.95, val_f1=0.97)
    costed(tmp_path, "middle", 12.0, 3.6, quality=0.94)
    costed(tmp_path, "small", 3.0, 0.9, quality=0.94, seed=7)
    costed(tmp_path, "tiny", 0.5, 0.09, quality=0.6)
    table = table_of(tmp_path)
    assert table is not None
    assert [row["setting"] for row in table.rows] == ["small", "middle", "large"], "tiny is significantly worse"
    assert [row["ms_per_text"] for row in table.rows] == [5, 20, 50]
    assert [row["gib"] for row in table.rows] == [3, 12, 40]
    assert table.note.startswith("The cheapest is small: ") and "1 other is worse" in table.note
    first = table.rows[0]
    assert first["low"] <= first["difference"] <= first["high"] and first["p"] >= 0.05
    assert "difference" not in table.rows[-1], "the winner is not compared with itself"
    page = render(analyse(tmp_path, None, with_baseline=False), "x", "now")
    assert "<h2>Smallest sufficient model</h2>" in page and "The cheapest is small" in page


def test_without_scoring_times_memory_decides(tmp_path: Path) -> None:
    """As of runs of earlier versions."""
    costed(tmp_path, "large", 40.0, 0.1, quality=0.95, val_f1=0.97)
    costed(tmp_path, "small", 3.0, None, quality=0.94, seed=7)
    table = table_of(tmp_path)
    assert table is not None and "ordered by memory;" in table.note
    assert [row["setting"] for row in table.rows] == ["small", "large"]


def test_only_the_winner_may_be_sufficient(tmp_path: Path) -> None:
    costed(tmp_path, "large", 40.0, 9.0, quality=0.95)
    assert table_of(tmp_path) is None, "there is nothing to rank"
    costed(tmp_path, "tiny", 0.5, 0.09, quality=0.6)
    table = table_of(tmp_path)
    assert table is not None and [row["setting"] for row in table.rows] == ["large"]
    assert table.note.startswith("The cheapest is the winner itself, large.")


@pytest.mark.parametrize("good", [True, False])
def test_the_baseline_takes_part(good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = costed(tmp_path, "large", 40.0, 9.0, quality=0.95)
    rows = read_jsonl(run / "predictions" / "test.jsonl")
    said = {row["id"]: row["prediction"] if good or i % 2 else rows[0]["label"] for i, row in enumerate(rows)}
    found = Baseline((said,), Scores(0.9, 0.9, 0.9, 0.9), (0.8, 1.0), 0.9, (0.25, 0.004))
    monkeypatch.setattr(analysis, "baseline_of", lambda *_: (found, ""))
    table = table_of(tmp_path, with_baseline=True)
    assert table is not None
    names = [row["setting"] for row in table.rows]
    if good:
        assert names[0] == "TF-IDF with logistic regression" and len(names) == 2
        assert (table.rows[0]["ms_per_text"], table.rows[0]["gib"]) == (0.25, 0.004)
    else:
        assert len(names) == 1 and "large" not in table.note.partition(" itself")[0]


def test_a_cheaper_setting_may_be_better_than_the_winner(tmp_path: Path) -> None:
    """Val has chosen the winner: on test another may be above it, and no distance is negative."""
    costed(tmp_path, "large", 40.0, 9.0, quality=0.5, val_f1=0.97)
    costed(tmp_path, "small", 3.0, 0.9, quality=0.95)
    table = table_of(tmp_path)
    assert table is not None and table.rows[0]["difference"] < 0
    above = f"{-100 * table.rows[0]['difference']:.2f}"
    assert table.note.startswith(f"The cheapest is small: {above} points above the winner, with 95 % ")
    assert "confidence at most 0.00 below." in table.note
