"""``python -m llm_cls.status``: a line per run."""

from llm_cls.runs.state import RunState
from llm_cls.runs.sweep import Entry, PlannedRun
from llm_cls.status import table
from tests.unit.runs.test_directory import metrics


def test_scores_are_in_percent() -> None:
    run = PlannedRun(Entry(directory="seed=1", overrides=[], swept=[]), RunState("finished", metrics=metrics()))
    assert table([run]).splitlines() == ["state     epochs  val F1   run", "finished  1/1     50.00 %  seed=1"]
