"""``sweep.workers``: how many there are, what each gets, and what is said about them."""

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from llm_cls.errors import ConfigError, SweepError
from llm_cls.multirun import conclusion, workers
from llm_cls.multirun.workers import WORKER, environments, run_workers
from llm_cls.runs.state import RunState, StateName
from llm_cls.runs.sweep import Entry, PlannedRun
from llm_cls.training import launch
from tests.integration.processes import alive

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def configs(count: int | str, accelerator: str, *devices: int | str) -> list[Mock]:
    return [Mock(**{"sweep.workers": count, "trainer.accelerator": accelerator, "trainer.devices": n}) for n in devices]


@pytest.mark.parametrize(
    ("count", "accelerator", "devices", "gpus", "visible", "expected"),
    [
        (1, "auto", [1], 8, None, [None]),
        ("auto", "auto", [1], 4, None, ["0", "1", "2", "3"]),
        ("auto", "auto", [1], 2, "GPU-b, GPU-a", ["GPU-b", "GPU-a"]),
        ("auto", "auto", [1], 1, "3,-1,5", ["3"]),  # CUDA ends the list at the first that does not exist
        ("auto", "gpu", [2], 5, None, ["0,1", "2,3"]),
        ("auto", "gpu", [1, 2], 4, "4,5,6,7", ["4,5", "6,7"]),
        ("auto", "auto", ["auto"], 4, None, ["0,1,2,3"]),
        ("auto", "auto", [8], 4, None, ["0,1,2,3"]),  # each run says that there are too few
        ("auto", "auto", [1], 0, None, [""]),
        ("auto", "cpu", [2], 4, None, [""]),
        (3, "cpu", [1], 4, None, ["", "", ""]),
        (3, "auto", [1], 2, None, ["0", "1", "0"]),
    ],
)
def test_workers_get_devices_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
    count: int | str,
    accelerator: str,
    devices: list[int | str],
    gpus: int,
    visible: str | None,
    expected: list[str | None],
) -> None:
    monkeypatch.delenv(WORKER, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "12")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    found = environments(configs(count, accelerator, *devices), BASIC)
    shares = {"OMP_NUM_THREADS": str(12 // len(expected))}
    assert found == [{} if own is None else shares | ({"CUDA_VISIBLE_DEVICES": own} if own else {}) for own in expected]
    monkeypatch.setenv(WORKER, "1")
    assert environments(configs(count, accelerator, *devices), BASIC) == [{}], "a worker starts none"


def test_threads_are_those_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launch, "usable_cores", lambda: 7)
    assert environments(configs(3, "cpu", 1), BASIC) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert environments(configs(9, "cpu", 1), BASIC) == [{"OMP_NUM_THREADS": "1"}] * 9


def test_launchers_that_start_processes_have_no_workers() -> None:
    other = "llm_cls.multirun.ray_launcher.RayLauncher"
    with pytest.raises(ConfigError, match=r"sweep\.workers must be 1 with hydra/launcher=ray .* got auto"):
        environments(configs("auto", "auto", 1), other)
    assert environments(configs(1, "auto", 1), other) == [{}]


def planned(**states: StateName) -> list[PlannedRun]:
    result = Mock(**{"seconds.total": 1.0, "epochs_run": 1})
    return [
        PlannedRun(
            Entry(directory=name, overrides=[], swept=[]),
            RunState(state, metrics=result if state == "finished" else None),
        )
        for name, state in states.items()
    ]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Worker N does what the file ``worker-N`` says."""
    script = tmp_path / "python"
    script.write_text(
        f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[3])
(folder / f"pid-{{os.environ['{WORKER}']}}").write_text(str(os.getpid()))
exec((folder / f"worker-{{os.environ['{WORKER}']}}").read_text())
"""
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(workers, "_POLL_SECONDS", 0.01)
    return tmp_path


def test_what_they_found_is_put_together(
    script: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    said = 'print(json.dumps({{"refused": {{"{0}": "other"}}, "reasons": {{"{1}": "crashed"}}}})); sys.exit(6)'
    (script / "worker-1").write_text(said.format("a", "b"))
    (script / "worker-2").write_text(said.format("c", "d"))
    (script / "worker-3").write_text("")
    (script / "worker-4").write_text("os.kill(os.getpid(), signal.SIGKILL)")
    (script / "worker-5").write_text("sys.exit(4)")
    seen = iter([planned(a="planned", b="planned"), planned(a="planned", b="running")])
    now = planned(a="running", b="failed")
    found = run_workers([{}] * 5, [str(script)], lambda: next(seen, now))
    assert found == ({"a": "other", "c": "other"}, {"b": "crashed", "d": "crashed"})
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Run ")] == ["Run b", "Run a"]
    pid = (script / "pid-4").read_text()
    assert any(f"Worker 4 (pid {pid}) was killed by SIGKILL" in line for line in caplog.messages)
    assert any("Worker 5" in line and "has failed, as reported above" in line for line in caplog.messages)
    assert len(caplog.messages) == 2, "failed runs are no fault of a worker"


def test_they_end_with_an_interruption(script: Path) -> None:
    (script / "worker-1").write_text("time.sleep(600)")

    def states() -> list[PlannedRun]:
        if (script / "pid-1").is_file() and (script / "pid-1").read_text():
            raise KeyboardInterrupt
        return []

    with pytest.raises(KeyboardInterrupt):
        run_workers([{}], [str(script)], states)
    assert not alive(int((script / "pid-1").read_text()))


def test_the_conclusion_names_what_failed(tmp_path: Path) -> None:
    runs = planned(a="finished", b="finished", c="failed", d="interrupted", e="failed")
    with pytest.raises(SweepError) as caught:
        conclusion.conclude(tmp_path, runs, {"b": "b holds another run"}, {"a": "too late", "c": "crashed"})
    assert str(caught.value).splitlines() == [
        f"4 of 5 runs of {tmp_path} failed",
        "b holds another run",
        "c: failed: crashed",
        "d: interrupted: its process has died",
        "e: failed: its process has died",
    ]
    conclusion.conclude(tmp_path, planned(a="finished"), {}, {"a": "an earlier attempt"})
