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

from tests.jsonl import read_jsonl

from .conftest import GRID, NAMES, TIMEOUT, TINY, Command, Start
from .processes import alive, children, state_names, sweep_states, wait_for
from .test_sweep import NOTES_STARTS, TWO_PROCESSES, assert_same_results

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


@pytest.fixture(scope="module")
def fresh_ranks(command: Command, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over two processes each, which every run starts afresh."""
    folder = tmp_path_factory.mktemp("fresh")
    line = ["--multirun", *TINY, f"data.archive={archive}", "logger=none", "hydra.sweep.dir=sweep", *MIXED]
    done = command("train", *line, "sweep.isolate=true", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "sweep"


MIXED = [*TWO_PROCESSES, "optimizer.lr=1e-3,2e-3", "data.max_length=24,32"]


def test_ranks_go_on_from_run_to_run(
    command: Command, environment: dict[str, str], sweep: list[str], fresh_ranks: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOTES_STARTS)  # which every Python imports that starts
    modules = os.pathsep.join(filter(None, [str(tmp_path), environment.get("PYTHONPATH")]))
    done = command("train", *sweep, *MIXED, cwd=tmp_path, env={"PYTHONPATH": modules})
    assert done.returncode == 0 and "4 of 4 runs are done" in done.stdout, done.stderr
    names = list(sweep_states(tmp_path / "sweep"))
    starts = [start[2:] for start in read_jsonl(tmp_path / "starts.jsonl") if start[1:2] == ["llm_cls.training.rank"]]
    assert starts == [[], []], "those that were started while this process was loading train all runs"
    assert_same_results(tmp_path / "sweep", fresh_ranks, names)
    for name in names:
        log = (tmp_path / "sweep" / name / "train.log").read_text(encoding="utf-8")
        assert log.count("Epoch 2/2") == 1, "each run has its own log"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_lost_in_a_later_run_costs_one_attempt(
    start: Start, sweep: list[str], fresh_ranks: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(*sweep, *MIXED, "trainer.timeout_seconds=10", cwd=tmp_path)
    second = "data.max_length=32,optimizer.lr=0.001"
    wait_for(tmp_path / "sweep" / second / "checkpoints" / "epoch-*-*.ckpt", process)
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], number)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    verb = "stopped" if number == signal.SIGSTOP else "killed"
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and f"(pid {ranks[1]}) was {verb} by {number.name}" in lines[0], errors
    assert not any(alive(pid) for pid in ranks)
    assert_same_results(tmp_path / "sweep", fresh_ranks, list(sweep_states(tmp_path / "sweep")))


def test_ranks_of_a_sweep_end_with_it(start: Start, sweep: list[str], tmp_path: Path) -> None:
    process = start(*sweep, *MIXED, "trainer.max_epochs=50", "optimizer.lr=1e-3", "seed=1,2", cwd=tmp_path)
    wait_for(tmp_path / "sweep" / "*" / "checkpoints" / "epoch-*-*.ckpt", process)
    ranks = children(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + TIMEOUT
    while any(alive(pid) for pid in ranks):
        assert len(ranks) == 2 and time.monotonic() < deadline, "the ranks outlive their parent"
        time.sleep(0.1)


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
