"""``sweep.workers`` through the real command."""

import os
import signal
import time
from pathlib import Path

import pytest

from llm_cls.multirun.workers import WORKER

from .conftest import GRID, NAMES, TIMEOUT, Command, Start
from .processes import alive, assert_interrupted, children, state_names, sweep_states, wait_for
from .test_sweep import assert_same_results

TWO = "sweep.workers=2"


@pytest.mark.slow  # it starts three fresh processes; tests/unit/multirun/test_workers.py has the parts
def test_two_workers_share_a_sweep_with_failures(command: Command, sweep: list[str], tmp_path: Path) -> None:
    grid = ["data.limit=30", "trainer.max_epochs=1", "optimizer.lr=1e-3,2e-3", "data.max_length=32,4096"]
    done = command("train", *sweep, *grid, TWO, cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    states = sweep_states(tmp_path / "sweep")
    assert sorted(state.name for state in states.values()) == ["failed", "failed", "finished", "finished"]
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert errors[-3] == "Error: 2 of 4 runs of sweep failed" and "Traceback" not in done.stderr
    assert all("failed: data.max_length must be <= 512" in line for line in errors[-2:])
    assert sum(line.endswith("runs of sweep failed") for line in errors) == 1, "the command says it, not each worker"
    assert "Epoch" not in done.stdout and "2 of 4 runs are done, 2 failed" in done.stdout.splitlines()
    for lr in ("0.001", "0.002"):
        run = tmp_path / "sweep" / f"data.max_length=32,optimizer.lr={lr}"
        assert (run / "train.log").read_text(encoding="utf-8").count("Epoch 1/1") == 1


def test_workers_need_the_launcher_of_hydra(command: Command, sweep: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    done = command("train", *sweep, "template=1,2", TWO, "hydra/launcher=ray", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert (
        done.stderr.startswith("Error: sweep.workers must be 1 with hydra/launcher=ray")
        and len(done.stderr.splitlines()) == 1
    )


@pytest.mark.slow
def test_the_runs_of_a_dead_worker_go_to_the_others(
    start: Start, sweep: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    process = start(*sweep, *GRID, TWO, cwd=tmp_path)
    wait_for(tmp_path / "sweep" / "*" / "checkpoints" / "epoch-*-*.ckpt", process)
    first = next(pid for pid in children(process.pid) if _number(pid) == "1")
    os.kill(first, signal.SIGKILL)
    out, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    assert f"Worker 1 (pid {first}) was killed by SIGKILL; the others continue with its runs" in out
    assert_same_results(tmp_path / "sweep", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 75), (signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_workers_end_with_the_command(
    command: Command, start: Start, sweep: list[str], undisturbed: Path, tmp_path: Path,
    number: signal.Signals, code: int,
) -> None:  # fmt: skip
    process = start(*sweep, *GRID, TWO, cwd=tmp_path, own_group=True)
    wait_for(tmp_path / "sweep" / "*" / "checkpoints" / "epoch-*-*.ckpt", process)
    workers = children(process.pid)
    assert len(workers) == 2
    os.killpg(process.pid, number)  # as a terminal sends Ctrl-C
    assert_interrupted(process, number, code)
    deadline = time.monotonic() + TIMEOUT
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "the workers outlive their parent"
        time.sleep(0.05)
    assert set(state_names(tmp_path / "sweep")) <= {"finished", "interrupted", "planned"}
    done = command("train", *sweep, *GRID, TWO, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_results(tmp_path / "sweep", undisturbed, NAMES)


def _number(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(variable.split("=", 1) for variable in variables if variable)[WORKER]
