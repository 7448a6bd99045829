"""``sweep.concurrent``: runs that train together have the results that they have alone."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.jsonl import read_jsonl

from .conftest import GRID, NAMES, Command, Start
from .processes import assert_interrupted, state_names, sweep_states, wait_for
from .test_sweep import results

# Runs that differ in what a pass allows: also in the number and the size of their steps, and in their data.
MIXED = (
    ["lora.r=4,8", "data.batch_size=4,16", "trainer.max_epochs=1,3", "data.folds=3", "data.fold=0,2"],
    ["lora.lora_dropout=0,0.3", "template=1,2", "loss=cross_entropy,focal", "seed=1,2", "data.micro_batch_size=3"],
)
TOLERANCE = 1e-5


def scores(run: Path) -> list[dict[str, Any]]:
    return [row["val"] | {"train_loss": row["train_loss"]} for row in read_jsonl(run / "history.jsonl")]


def assert_close(one: Path, two: Path) -> None:
    """The same files; equal decisions and metrics; losses and probabilities within ``TOLERANCE``."""
    first, second = results(one), results(two)
    assert first.keys() == second.keys()
    for a, b in zip(scores(one), scores(two), strict=True):
        assert a == pytest.approx(b, abs=TOLERANCE)
    (a,), (b,) = first["metrics.json"], second["metrics.json"]
    for split in ("val", "test"):
        x, y = a.pop(split), b.pop(split)
        assert x.pop("f1_ci95", None) == y.pop("f1_ci95", None)
        assert x == pytest.approx(y, abs=TOLERANCE)
        for x, y in zip(*(read_jsonl(run / f"predictions/{split}.jsonl") for run in (one, two)), strict=True):
            assert (x["id"], x["prediction"]) == (y["id"], y["prediction"])
            assert x["probabilities"] == pytest.approx(y["probabilities"], abs=TOLERANCE)
    assert a == b
    for key, weight in load_file(one / "model/adapter_model.safetensors").items():
        other = load_file(two / "model/adapter_model.safetensors")[key]
        torch.testing.assert_close(weight, other, rtol=1e-3, atol=1e-4)


def test_runs_of_a_pass_are_those_of_separate_runs(
    command: Command,
    undisturbed: Path,
    sweep: list[str],
    tmp_path: Path,
) -> None:
    done = command("train", *sweep, *GRID, "sweep.concurrent=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        one, two = tmp_path / "sweep" / name, undisturbed / name
        assert_close(one, two)
        own = (one / "train.log").read_text(encoding="utf-8")
        assert own.count("Epoch 1/2") == own.count("Epoch 2/2") == 1
        assert f"{name}: Epoch 2/2: train loss" in done.stdout
        ids = {json.loads((run / "run.json").read_text(encoding="utf-8"))["run_id"] for run in (one, two)}
        assert len(ids) == 1


def test_a_pass_without_a_log(command: Command, sweep: list[str], tmp_path: Path) -> None:
    line = [*sweep, "optimizer.lr=1e-3,2e-3", "trainer.max_epochs=1", "hydra/job_logging=disabled"]
    done = command("train", *line, "sweep.concurrent=2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "2 of 2 runs are done" in done.stdout
    assert "Epoch" not in done.stdout and not list(tmp_path.rglob("train.log"))


@pytest.mark.slow
@pytest.mark.parametrize("grid", MIXED)
def test_runs_of_a_pass_may_differ_in_everything_but_the_network(
    command: Command,
    sweep: list[str],
    tmp_path: Path,
    grid: list[str],
) -> None:
    for folder, concurrent in (("alone", "1"), ("together", "4"), ("auto", "auto")):
        line = [*sweep, *grid, f"sweep.concurrent={concurrent}", f"hydra.sweep.dir={folder}"]
        done = command("train", *line, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "alone").iterdir() if path.is_dir())
    assert len(names) == 16
    for name in names:
        for folder in ("together", "auto"):
            assert_close(tmp_path / folder / name, tmp_path / "alone" / name)


def test_a_run_that_fails_or_diverges_affects_no_other(
    command: Command,
    undisturbed: Path,
    sweep: list[str],
    tmp_path: Path,
) -> None:
    """One has no such layer, one diverges in its first epoch; both leave their place to the next run."""
    runs = ["optimizer.lr=2e-3,1e30", "template=1", "lora.target_modules=all-linear,[query_key_value],[nothing]"]
    done = command("train", *sweep, *runs, "sweep.concurrent=2", "sweep.retries=0", cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    states = {name: state.name for name, state in sweep_states(tmp_path / "sweep").items()}
    assert len(states) == 6
    for name, state in states.items():
        expected = "failed" if "nothing" in name else "diverged" if "1e+30" in name else "finished"
        assert state == expected, name
    said = [line for line in done.stderr.splitlines() if "no layer of this model is named 'nothing'" in line]
    for name in states:
        if "nothing" in name:  # when it failed, and at the end
            assert [line.startswith(f"Error: {name}: ") for line in said].count(True) == 2
    assert len(said) == 4
    healthy = next(name for name in states if "0.002" in name and "all-linear" in name)
    assert_close(tmp_path / "sweep" / healthy, undisturbed / "optimizer.lr=0.002,template=1")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, -9),
        pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow),  # see also tests/unit/training/test_joint.py
        pytest.param(signal.SIGINT, 75, marks=pytest.mark.slow),
    ],
)
def test_a_pass_that_was_ended_continues(
    command: Command,
    start: Start,
    undisturbed: Path,
    sweep: list[str],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    process = start(*sweep, *GRID, "sweep.concurrent=4", cwd=tmp_path)
    for name in NAMES:
        wait_for(tmp_path / "sweep" / name / "checkpoints" / "epoch-*-*.ckpt", process)
    process.send_signal(number)
    assert_interrupted(process, number, code)
    assert "planned" not in state_names(tmp_path / "sweep")
    done = command("train", *sweep, *GRID, "sweep.concurrent=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert_close(tmp_path / "sweep" / name, undisturbed / name)


def test_a_damaged_run_is_reported_and_left(
    command: Command, undisturbed: Path, sweep: list[str], tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "sweep")
    damaged = tmp_path / "sweep" / NAMES[1] / "predictions" / "val.jsonl"
    before = damaged.read_bytes()[:-2] + b"\n"
    damaged.write_bytes(before)
    for concurrent in (1, 4):
        done = command("train", *sweep, *GRID, f"sweep.concurrent={concurrent}", cwd=tmp_path)
        assert done.returncode == 6 and "Error: 1 of 4 runs of sweep failed" in done.stderr, done.stderr
        assert str(damaged.relative_to(tmp_path)) in done.stderr and "3 of 3 runs are done" in done.stdout
        assert damaged.read_bytes() == before


def test_another_launcher_has_its_own_processes(command: Command, sweep: list[str], tmp_path: Path) -> None:
    done = command("train", *sweep, *GRID, "sweep.concurrent=2", "hydra/launcher=submitit_slurm", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
