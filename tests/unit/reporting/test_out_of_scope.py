"""Texts out of scope in a run like one on CLINC150: 150 intents, and ``oos`` in 3 % of val, but 18 % of test."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llm_cls.config.decisions import CalibrateArguments
from llm_cls.reporting.calibration import calibrate
from llm_cls.reporting.curves import write_curves
from llm_cls.runs.calibration import FoundOutOfScope
from tests.jsonl import read_jsonl

from .calibrated_runs import calibrated_run

pytestmark = pytest.mark.slow  # intervals of 5,500 texts with 151 labels

NAMES = (*(f"intent {i:03d}" for i in range(150)), "oos")


def draw(n_intents: int, n_oos: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Intents that are mostly certain, and texts that look somewhat like one of them, and less often like ``oos``."""
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 150, n_intents), np.full(n_oos, 150))
    logits = rng.standard_normal((len(labels), 151))
    logits[np.arange(n_intents), labels[:n_intents]] += rng.normal(8.5, 2.0, n_intents)
    logits[np.arange(n_intents, len(labels)), rng.integers(0, 150, n_oos)] += rng.normal(4.5, 2.0, n_oos)
    logits[n_intents:, 150] += rng.normal(3.5, 2.0, n_oos)
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), labels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"val": draw(3000, 100, 1), "test": draw(4500, 1000, 2)}
    return calibrated_run(tmp_path_factory.mktemp("clinc") / "run", splits, NAMES)


def test_a_threshold_finds_what_arg_max_does_not(run: Path) -> None:
    """A temperature keeps the most probable label, so that its recall is that of the stored predictions."""
    arguments = CalibrateArguments(run=run, method="temperature", target_accuracy=0.98, oos="oos")
    record, splits = calibrate(arguments)
    assert record.out_of_scope is not None and record.policy is not None
    rows = read_jsonl(run / "predictions" / "test.jsonl")
    named = sum(row["prediction"] == row["label"] == "oos" for row in rows) / 1000
    found, policy = record.out_of_scope.arg_max, record.out_of_scope.policy
    assert found.recall == named and 0.2 < named < 0.4 and policy is not None
    assert policy.recall > 2 * found.recall and policy.precision > 0.6
    assert record.policy.target_kept_on_test is False, "val has fewer of these texts than test"
    write_curves(run, splits, NAMES.index("oos"))
    with (run / "calibration" / "oos.csv").open(encoding="utf-8", newline="") as file:
        curve = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert [float(curve[0][key]) for key in ("threshold", "recall")] == [0, named]
    above = next(row for row in curve if float(row["threshold"]) >= policy.threshold)
    assert float(above["recall"]) >= policy.recall and float(curve[-1]["recall"]) == 1


def test_a_bias_for_each_label_finds_most_of_them(run: Path) -> None:
    record, _ = calibrate(CalibrateArguments(run=run, oos="oos"))
    assert record.method == "temperature_and_bias" and record.out_of_scope is not None
    found: FoundOutOfScope = record.out_of_scope.arg_max
    assert found.recall > 0.6 and found.precision > 0.9
