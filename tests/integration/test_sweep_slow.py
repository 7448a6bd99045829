"""What takes minutes: kills at random moments, every experiment, long sweeps, Ray. ``make test-slow`` runs it."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import GRID, NAMES, TIMEOUT, Command, Start
from .processes import state_names, sweep_states, wait_for
from .test_sweep import TWO_PROCESSES, assert_same_results

pytestmark = pytest.mark.slow


PRUNED = ["optimizer.lr=1e-7,2e-3", "template=1,2", "trainer.max_epochs=3", "pruner=median"]


@pytest.mark.parametrize(("kills", "grid"), [(50, GRID), (12, PRUNED)])
def test_kills(start: Start, sweep: list[str], undisturbed: Path, tmp_path: Path, kills: int, grid: list[str]) -> None:
    """kill -9 at moments spread over the time that a whole sweep takes here, each followed by the same command."""
    draw = random.Random(0)
    killed = amid = finished = 0
    whole = 0.0  # seconds of the first sweep, which is let alone
    while killed < kills or finished < 2:
        started = time.monotonic()
        process = start(*sweep, *grid, cwd=tmp_path)
        try:
            _, errors = process.communicate(timeout=draw.uniform(0, whole) if whole and killed < kills else TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            amid += "interrupted" in state_names(tmp_path / "sweep")
            continue
        assert process.returncode == 0, errors
        if not finished:
            whole = time.monotonic() - started
            (tmp_path / "sweep").rename(tmp_path / "first")
            names = list(sweep_states(tmp_path / "first"))
            ends = set(state_names(tmp_path / "first"))
            assert ends == ({"finished", "pruned"} if grid is PRUNED else {"finished"})
            if grid is GRID:
                assert_same_results(tmp_path / "first", undisturbed)
        else:
            assert_same_results(tmp_path / "sweep", tmp_path / "first", names)
            shutil.rmtree(tmp_path / "sweep")
        finished += 1
    print(f"{killed} kills, {amid} of them amid a run; {finished} sweeps of {whole:.0f} s finished, one undisturbed")
    assert amid >= kills // 4


def test_interrupted_runs_of_two_processes_resume(
    command: Command, start: Start, sweep: list[str], tmp_path: Path
) -> None:
    """Ctrl-C, which a terminal sends to the command alone: its ranks have sessions of their own."""
    line = [*sweep, "optimizer.lr=1e-3,2e-3", *TWO_PROCESSES]
    whole = command("train", *line, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    (tmp_path / "sweep").rename(tmp_path / "whole")
    process = start(*line, cwd=tmp_path, own_group=True)
    wait_for(tmp_path / "sweep" / "optimizer.lr=0.002" / "checkpoints" / "epoch-*-*.ckpt", process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, errors
    assert errors.strip().endswith("Resume with the same command and hydra.sweep.dir=sweep")
    states = list(sweep_states(tmp_path / "sweep").values())
    assert [state.name for state in states] == ["finished", "interrupted"] and states[1].epochs >= 1
    again = command("train", *line, cwd=tmp_path)
    assert again.returncode == 0 and "Resuming after the last epoch" in again.stdout + again.stderr, again.stderr
    names = ["optimizer.lr=0.001", "optimizer.lr=0.002"]
    assert_same_results(tmp_path / "sweep", tmp_path / "whole", names)
    assert [json.loads((tmp_path / "sweep" / n / "run.json").read_text())["world_size"] for n in names] == [2, 2]


LRS = [1e-4, 3e-4, 5e-4, 1e-3]
CURVE = [1e-5, 3e-5, 5e-5, 1e-4, 3e-4, 5e-4, 1e-3, 3e-3, 5e-3, 1e-2, 3e-2, 5e-2]
TEMPLATES = ["タイトル: {title}\n本文: {body}\nラベル: ", "タイトル: {title}\n本文: {body}", "{title}\n{body}"]


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("lr_template", {"optimizer.lr": LRS, "template.text": TEMPLATES}),
        ("lr_curve", {"optimizer.lr": CURVE}),
        ("batch_size", {"data.batch_size": [2, 4, 8, 16, 32, 64], "optimizer.lr": LRS}),
        ("lora_rank", {"lora.r": [4, 8, 16, 32, 64], "optimizer.lr": CURVE}),
        ("all_models", {"optimizer.lr": LRS, "template.text": TEMPLATES}),
    ],
)
def test_experiments_run(command: Command, tmp_path: Path, name: str, axes: dict[str, list[Any]]) -> None:
    """With the shipped model and texts, which take the place of an axis of models."""
    small = ["data.limit=64", "data.max_length=32", "trainer=cpu", "trainer.max_epochs=1", "trainer.progress_bar=false"]
    done = command(
        "train", "--multirun", f"experiment={name}", "model=ja-mini", "data=sample", *small, "logger=none",
        "hydra.sweep.dir=sweep", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = sweep_states(tmp_path / "sweep")
    assert {state.name for state in states.values()} == {"finished"}
    found = []
    for directory in states:
        config = yaml.safe_load((tmp_path / "sweep" / directory / "config.yaml").read_text("utf-8"))
        assert config["model"]["name"] == "ja-mini" and config["data"]["name"] == "sample"
        found.append(tuple(config[group][key] for group, _, key in (axis.partition(".") for axis in axes)))
    assert sorted(found) == sorted(itertools.product(*axes.values())), "each combination once"


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


def test_a_killed_ray_worker_does_not_affect_other_runs(
    environment: dict[str, str], sweep: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    line = [*sweep, "optimizer.lr=1e-3,2e-3", "trainer.max_epochs=20", "hydra/launcher=ray", "sweep.retries=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llm_cls.train", *line],
        cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "sweep" / "*" / "checkpoints" / "epoch-*-*.ckpt", process)
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    worker = next(int(row.split()[0]) for row in listed.splitlines() if "ray::_run" in row)
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 6, errors
    names = sorted(state_names(tmp_path / "sweep"))
    assert names == ["finished", "interrupted"], "one ended by the kill, which can go on; the other trained to its end"


def test_an_interrupted_ray_sweep_ends_its_runs(environment: dict[str, str], sweep: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    line = [*sweep, "optimizer.lr=1e-3,2e-3", "trainer.max_epochs=100", "hydra/launcher=ray"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llm_cls.train", *line],
        cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "sweep" / "*" / "checkpoints" / "epoch-*-*.ckpt", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, errors
    assert errors.strip().endswith("Resume with the same command and hydra.sweep.dir=sweep")
    time.sleep(3)
    assert set(state_names(tmp_path / "sweep")) <= {"interrupted", "planned"}, "no run goes on"
