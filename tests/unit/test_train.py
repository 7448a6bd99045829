"""What a run prints in the end."""

from pathlib import Path

import pytest

from llm_cls.multirun.task import _summary
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.schema import Durations, Metrics, TestScores, ValScores
from tests.unit.runs.test_directory import record
from tests.unit.runs.test_identity import config

SCORES = {"accuracy": 0.9, "precision": 0.9, "recall": 0.9, "f1": 0.97925}


def metrics(collapsed: bool = False) -> Metrics:
    return Metrics(
        status="finished", collapsed=collapsed, best_epoch=1, epochs_run=1, val=ValScores(**SCORES, n=10),
        test=TestScores(**SCORES, n=10, f1_ci95=[0.9, 1.0]), seconds=Durations(total=1.0),
    )  # fmt: skip


def test_scores_are_in_percent_as_in_the_report() -> None:
    shown = _summary(metrics(), config(), Path("run"))
    assert "val   F1 97.93 %   accuracy 90.00 %   (10 texts)" in shown
    assert "95 % interval of F1: 90.00 to 100.00)" in shown


@pytest.mark.parametrize(
    ("max_epochs", "warmup_epochs", "n_train", "fix"),
    [
        (1, 1, 9000, "All epochs were warm-up: trainer.max_epochs should be > optimizer.warmup_epochs (1), was 1. "),
        (2, 1, 200 * 32, "Try another optimizer.lr."),
        (1, 0.5, 199 * 32, "It had too few steps: 199, where some 200 are usual. Try more trainer.max_epochs, or a"),
    ],
)
def test_a_collapsed_run_is_told_its_cause(
    max_epochs: int, warmup_epochs: float, n_train: int, fix: str, tmp_path: Path
) -> None:
    changed = config(**{"trainer.max_epochs": max_epochs, "optimizer.warmup_epochs": warmup_epochs})
    begun = record()
    sized = begun.model_copy(update={"data": begun.data.model_copy(update={"n_train": n_train})})
    RunDirectory(tmp_path).begin(changed, sized)
    (line,) = (line for line in _summary(metrics(collapsed=True), changed, tmp_path).splitlines() if "Coll" in line)
    assert line.startswith(f"Collapsed: half of the labels or more are never predicted. {fix}")
