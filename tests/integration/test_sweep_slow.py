"""What takes minutes: kills at random moments, thirty runs in one process, Ray. ``make test-slow`` runs it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_cls.ledger import read_states

from .conftest import Command
from .test_sweep import GRID, NAMES, assert_same_results
from .test_sweep import sweep as sweep
from .test_sweep import undisturbed as undisturbed
from .test_training import wait_for

pytestmark = pytest.mark.slow
KILLS = 50


def test_fifty_kills(environment: dict[str, str], sweep: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """kill -9 at moments spread over the time that a whole sweep takes here, each followed by the same command."""
    draw = random.Random(0)
    line = [sys.executable, "-m", "llm_cls.train", *sweep, *GRID]
    kills = amid = finished = 0
    whole = 0.0  # seconds of the first sweep, which is let alone
    while kills < KILLS or finished < 2:
        started = time.monotonic()
        process = subprocess.Popen(
            line, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            _, errors = process.communicate(timeout=draw.uniform(0, whole) if whole and kills < KILLS else 300)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            amid += any(state.name == "interrupted" for state in read_states(tmp_path / "sweep"))
            continue
        assert process.returncode == 0, errors
        whole = whole or time.monotonic() - started
        assert [state.name for state in read_states(tmp_path / "sweep")] == ["finished"] * len(NAMES)
        assert_same_results(tmp_path / "sweep", undisturbed)
        shutil.rmtree(tmp_path / "sweep")
        finished += 1
    print(f"{kills} kills, {amid} of them amid a run; {finished} sweeps of {whole:.0f} s finished, one undisturbed")
    assert amid >= KILLS // 4


def test_memory_does_not_grow_over_thirty_runs(environment: dict[str, str], sweep: list[str], tmp_path: Path) -> None:
    line = [sys.executable, "-m", "llm_cls.train", *sweep, "trainer.max_epochs=1", "seed=range(30)"]
    process = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    resident = []
    for text in process.stdout:
        if "of 30 runs are done" in text:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    assert process.wait() == 0 and len(resident) >= 30
    print(
        f"MiB after runs 1, 10, 20 and 30: {resident[0]:.0f}, {resident[9]:.0f}, {resident[19]:.0f}, {resident[29]:.0f}"
    )
    weights = 15.6 * 2  # of the decoder in float32, MiB: keeping one of them per run would show at once
    assert resident[29] - resident[9] < weights


def test_ray(command: Command, sweep: list[str], undisturbed: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    line = [*sweep, *GRID, "hydra/launcher=ray"]
    fixed = {"RAY_DEDUP_LOGS": "0", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = command("train", *line, cwd=tmp_path, env=fixed)
    assert done.returncode == 0, done.stderr
    assert_same_results(tmp_path / "sweep", undisturbed)
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == NAMES
    failing = [*sweep, "optimizer.lr=1e-3,2e-3", "data.max_length=32,4096", "hydra.sweep.dir=other", line[-1]]
    done = command("train", *failing, cwd=tmp_path, env=fixed)
    assert done.returncode == 6 and "2 of 4 runs of other failed" in done.stderr


def test_a_killed_ray_worker_takes_no_other_run_along(
    environment: dict[str, str], sweep: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    line = [*sweep, "optimizer.lr=1e-3,2e-3", "trainer.max_epochs=20", "hydra/launcher=ray", "sweep.retries=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llm_cls.train", *line],
        cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "sweep" / "*" / "checkpoints" / "last.ckpt", process)
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    worker = next(int(row.split()[0]) for row in listed.splitlines() if "ray::_run" in row)
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 6, errors
    names = sorted(state.name for state in read_states(tmp_path / "sweep"))
    assert names == ["finished", "interrupted"], "one ended by the kill, which can go on; the other trained to its end"


def test_an_interrupted_ray_sweep_takes_its_runs_along(
    environment: dict[str, str], sweep: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    line = [*sweep, "optimizer.lr=1e-3,2e-3", "trainer.max_epochs=100", "hydra/launcher=ray"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llm_cls.train", *line],
        cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "sweep" / "*" / "checkpoints" / "last.ckpt", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.strip().endswith("Go on with the same command and hydra.sweep.dir=sweep")
    time.sleep(3)
    assert {state.name for state in read_states(tmp_path / "sweep")} <= {"interrupted", "planned"}, "no run goes on"
