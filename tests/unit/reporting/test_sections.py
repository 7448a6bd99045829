"""What the sections of the page say, compared with the files of the runs and with independent implementations."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from llm_cls.metrics.scores import Scores
from llm_cls.reporting.analysis import Analysis, analyse
from llm_cls.reporting.baseline import Baseline
from llm_cls.reporting.page import render
from llm_cls.reporting.predictions import read_test_predictions
from tests.unit.reporting.run_directories import LABELS, make_run, make_split, replace_json

Element = ElementTree.Element


def section(found: Analysis, anchor: str) -> Element:
    """A section of the page; its markup is well-formed XML."""
    page = render(found, "sweep", "2026-01-31 12:00 UTC")
    start = page.index(f'<section id="{anchor}"')
    return ElementTree.fromstring(page[start : page.index("</section>", start)] + "</section>")


def rows(part: Element, label: str) -> list[list[str]]:
    """The cells of a table, row by row, without the headings."""
    (table,) = (t for t in part.iter("table") if t.findtext("caption") == label)
    return [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")][1:]


def links(part: Element, label: str) -> list[str | None]:
    (table,) = (t for t in part.iter("table") if t.findtext("caption") == label)
    return [link.get("href") for link in table.iter("a")]


def plot(part: Element, name: str) -> Element:
    """The plot with this title."""
    (drawing,) = (svg for svg in part.iter("svg") if svg.findtext("title") == name)
    return drawing


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    directory = tmp_path_factory.mktemp("runs")
    make_run(directory / "a", lr=1e-4, quality=0.8, val_f1=0.9)
    make_run(directory / "b", lr=3e-4, quality=0.7, val_f1=0.8)
    make_run(directory / "c", lr=5e-4, quality=0.75, val_f1=0.7)
    make_run(directory / "collapsed", lr=1e-2, quality=0.1)
    make_run(directory / "gone", lr=5e-2, status="diverged")
    return analyse(directory, None, with_baseline=False)


@pytest.fixture(scope="module")
def predictions(found: Analysis) -> list[dict[str, Any]]:
    path = found.runs[0].path / "predictions" / "test.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _sure(row: dict[str, Any]) -> float:
    return row["probabilities"][row["prediction"]]


def test_misclassified_texts_most_confident_first(found: Analysis, predictions: list[dict[str, Any]]) -> None:
    wrong = [row for row in predictions if row["label"] != row["prediction"]]
    wrong.sort(key=_sure, reverse=True)
    part = section(found, "texts")
    shown = rows(part, "Misclassified texts")
    assert len(shown) == len(wrong) == 36
    for row, (title, label, prediction, p, _) in zip(wrong, shown, strict=True):
        assert (title, label, prediction) == (row["title"], row["label"], row["prediction"])
        assert float(p) == pytest.approx(100 * _sure(row), abs=0.0051)
    numbers = [row["id"].rpartition("-")[2] for row in wrong]
    expected = [f"https://news.livedoor.com/article/detail/{number}/" for number in numbers]
    assert links(part, "Misclassified texts") == expected


def test_least_certain_texts(found: Analysis, predictions: list[dict[str, Any]]) -> None:
    shown = rows(section(found, "texts"), "Least certain texts")
    expected = sorted(predictions, key=_sure)[:50]
    assert [row[0] for row in shown] == [row["title"] for row in expected]
    assert [float(row[3]) for row in shown] == pytest.approx([100 * _sure(row) for row in expected], abs=0.0051)


def test_confusion_matrix_and_figures_of_each_label(found: Analysis, predictions: list[dict[str, Any]]) -> None:
    true, predicted = ([row[key] for row in predictions] for key in ("label", "prediction"))
    part = section(found, "winner")
    shown = rows(part, "Confusion matrix")
    assert [row[0] for row in shown] == list(LABELS)
    counts = [[int(cell) for cell in row[1:]] for row in shown]
    assert counts == confusion_matrix(true, predicted, labels=LABELS).tolist()
    columns = precision_recall_fscore_support(true, predicted, labels=LABELS, zero_division=0)
    figures = [[float(cell) for cell in row[1:]] for row in rows(part, "Per label")]
    expected = np.stack([*(100 * column for column in columns[:3]), columns[3]], axis=1)
    assert np.abs(np.array(figures) - expected).max() < 0.0051


def test_calibration_error(found: Analysis, predictions: list[dict[str, Any]]) -> None:
    confidences = np.array([_sure(row) for row in predictions])
    correct = np.array([row["label"] == row["prediction"] for row in predictions])
    accuracy, confidence = calibration_curve(correct, confidences, n_bins=10)
    counts = np.histogram(confidences, bins=np.linspace(0, 1, 11))[0]
    ece = np.abs(accuracy - confidence) @ counts[counts > 0] / len(confidences)
    text = " ".join("".join(section(found, "winner").itertext()).split())
    assert f"Expected calibration error {100 * ece:.2f} points" in text


def test_each_comparison_has_a_row_and_the_second_best_is_that_on_val(found: Analysis) -> None:
    shown = rows(section(found, "comparisons"), "Comparisons")
    assert [row[0] for row in shown] == [pair.other for pair in found.comparisons] == ["lr 3e-4", "lr 5e-4", "lr 1e-2"]
    assert found.runner_up is not None and found.runner_up.other == "lr 3e-4"  # "lr 5e-4" is better on test
    for row, pair in zip(shown, found.comparisons, strict=True):
        figures = [100 * pair.difference, 100 * pair.interval[0], 100 * pair.interval[1]]
        assert [float(cell) for cell in row[1:4]] == pytest.approx(figures, abs=0.0051)
        assert [int(cell) for cell in row[6:8]] == [pair.only_winner, pair.only_other]
        assert row[8] == ("yes" if pair.significant else "no")


def test_f1_over_the_learning_rate_has_intervals_and_crosses(found: Analysis) -> None:
    drawing = plot(section(found, "lr"), "F1 over learning rate")
    tooltips = [use.findtext("title") or "" for use in drawing.iter("use") if use.find("title") is not None]
    assert len(tooltips) == 5
    assert sum(", 95 % " in text for text in tooltips) == 4 and "gone: diverged" in tooltips
    assert sum(text.endswith(", collapsed") for text in tooltips) == 1
    assert [path.get("stroke-opacity") for path in drawing.iter("path")].count("0.65") == 3  # intervals


@pytest.mark.parametrize(("hardware", "unit"), [("NVIDIA H200", "GPU-seconds"), ("x86_64 CPU", "device-seconds")])
def test_cost_counts_all_devices_and_names_their_kind(tmp_path: Path, hardware: str, unit: str) -> None:
    run = make_run(tmp_path / "a", seconds=1000.0)
    replace_json(run / "run.json", world_size=4, hardware=hardware)
    text = "".join(section(analyse(tmp_path, None, with_baseline=False), "cost").itertext())
    assert f"4,000 {unit}" in text and "38 GiB" in text


def test_the_baseline_is_a_row_beside_the_models(found: Analysis) -> None:
    baseline = Baseline(({},), Scores(0.961, 0.962, 0.963, 0.957), (0.941, 0.972), 0.957)
    part = section(replace(found, baseline=baseline), "best")
    shown = [cell for cell in rows(part, "Best per model")[-1] if cell]
    assert shown == ["TF-IDF baseline", "96.10", "96.20", "96.30", "95.70", "94.10", "97.20"]


def test_each_run_has_its_provenance(found: Analysis) -> None:
    part = section(found, "provenance")
    shown = rows(part, "Runs")
    assert [row[:3] for row in shown] == [
        [run.name, run.state, run.record.run_id if run.record else ""] for run in found.runs
    ]
    assert [row[3] for row in shown] == [str(run.config["optimizer.lr"]) for run in found.runs]
    common = dict(rows(part, "Common configuration"))
    assert common["data.max_length"] == "512" and common["lora.target_modules"] == "null"
    assert "optimizer.lr" not in common
    assert rows(part, "Software") == [["python", "3.11.7"], ["torch", "2.11.0"]]


def test_intervals_of_repeated_settings_are_of_the_mean_over_their_runs(tmp_path: Path) -> None:
    for fold in (0, 1):
        for lr, qualities in ((1e-4, (0.95, 0.85)), (3e-4, (0.80, 0.70))):
            for seed, quality in enumerate(qualities):
                directory = tmp_path / f"{fold}-{lr}-{seed}"
                make_split(directory, fold, lr=lr, quality=quality, seed=seed, digest=f"{fold}" * 64)
    found = analyse(tmp_path, None, with_baseline=False)
    (pair,) = found.comparisons
    means = []
    for fold in (0, 1):  # other texts in each fold: drawn independently
        draws = np.random.default_rng(fold).multinomial(180, np.full(180, 1 / 180), size=2000)
        sides = [
            np.mean([_resampled(run, draws) for run in setting.runs if run.config["data.fold"] == fold], axis=0)
            for setting in found.settings
        ]
        means.append(sides[0] - sides[1])
    assert pair.interval == pytest.approx(tuple(np.percentile(np.mean(means, axis=0), [2.5, 97.5])), abs=1e-12)


def _resampled(run: Any, draws: np.ndarray) -> np.ndarray:
    """Macro F1 of each resample, label by label."""
    texts = read_test_predictions(run)
    f1 = []
    for label in range(len(texts.names)):
        hits = draws[:, (texts.labels == label) & (texts.predictions == label)].sum(axis=1)
        both = draws[:, texts.labels == label].sum(axis=1) + draws[:, texts.predictions == label].sum(axis=1)
        f1.append(2 * hits / np.maximum(both, 1))
    return np.mean(f1, axis=0)
