"""``python -m llm_cls.status``: a line per run."""

import sys
from pathlib import Path

import pytest

from llm_cls import status
from llm_cls.cli import run_command
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.state import RunState
from tests.unit.runs.test_directory import config, metrics, record


def test_scores_are_in_percent() -> None:
    shown = status.table([("seed=1", RunState("finished", metrics=metrics()))])
    assert shown.splitlines() == ["state     epochs  val F1    run", "finished  1/1     100.00 %  seed=1"]


@pytest.mark.parametrize("below", ["", "day/run"])
def test_runs_outside_of_a_sweep_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    directory = RunDirectory(tmp_path / "runs" / below)
    directory.commit(directory.begin(config(), record()), metrics())
    monkeypatch.setattr(sys, "argv", ["status", f"dir={tmp_path / 'runs'}"])
    assert run_command(status.main) == 0
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert line.split() == ["finished", "1/10", "100.00", "%", str(tmp_path / "runs" / below)]


def test_a_directory_without_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["status", f"dir={tmp_path}"])
    assert run_command(status.main) == 2
    assert capsys.readouterr().err == (
        f"Error: dir={tmp_path} is neither the directory of a sweep nor of a run, and has no runs below it. "
        "Try dir=outputs/sweeps/NAME\n"
    )


def test_the_column_names_the_monitored_score() -> None:
    def selected_on(name: str, **val: float) -> RunState:
        made = record()
        identity = {"trainer.max_epochs": 2, "trainer.monitor": name}
        found = metrics()
        scores = found.val.model_copy(update=val)
        return RunState(
            "finished", made.model_copy(update={"identity": identity}), (), found.model_copy(update={"val": scores})
        )

    mcc, loss = selected_on("mcc", mcc=0.5), selected_on("loss", loss=0.25)
    assert [line.split()[2:] for line in status.table([("a", loss)]).splitlines()] == [
        ["val", "loss", "run"], ["0.2500", "a"]
    ]  # fmt: skip
    mixed = status.table([("a", mcc), ("b", loss)]).splitlines()
    assert [line.split()[2:] for line in mixed] == [
        ["val", "score", "run"], ["MCC", "50.00", "%", "a"], ["loss", "0.2500", "b"]
    ]  # fmt: skip
