"""What a run prints in the end."""

from pathlib import Path

from llm_cls.runs.schema import Durations, Metrics, TestScores, ValScores
from llm_cls.train import _summary

SCORES = {"accuracy": 0.9, "precision": 0.9, "recall": 0.9, "f1": 0.97925}


def metrics(collapsed: bool = False) -> Metrics:
    return Metrics(
        status="finished", collapsed=collapsed, best_epoch=1, epochs_run=1, val=ValScores(**SCORES, n=10),
        test=TestScores(**SCORES, n=10, f1_ci95=[0.9, 1.0]), seconds=Durations(total=1.0),
    )  # fmt: skip


def test_scores_are_in_percent_as_in_the_report() -> None:
    shown = _summary(metrics(), Path("run"))
    assert "val   F1 97.93 %   accuracy 90.00 %   (10 texts)" in shown
    assert "95 % interval of F1: 90.00 % to 100.00 %)" in shown
