"""``--multirun``: each combination trained once, whatever happens."""

import importlib.util
import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llm_cls.runs import layout
from tests.jsonl import read_jsonl

from .conftest import GRID, NAMES, TIMEOUT, TINY, WORDS, Command, Program, Start
from .processes import assert_interrupted, state_names, sweep_states, wait_for
from .wandb_files import read_wandb

RESULTS = ("predictions/val.jsonl", "predictions/test.jsonl", "model/adapter_model.safetensors")
RECORDS = (".lock", "config.yaml", "run.json", "train.log")  # they tell when and how a run was made
MEASURED = ("seconds", "tokens_per_second", "peak_memory_gib")
TWO_PROCESSES = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]

NOTES_STARTS = """
import json, sys
with open("starts.jsonl", "a", encoding="utf-8") as file:
    file.write(json.dumps(sys.orig_argv[1:]) + "\\n")
"""


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Content and time of every file below ``folder``."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def results(run: Path) -> dict[str, Any]:
    """What each file of a finished run says, apart from times, speed and memory; none of them is a leftover."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = path.relative_to(run).as_posix()
        assert path.suffix != ".tmp" and path.parent != run / "checkpoints", f"{path} is left over"
        if name in ("history.jsonl", "metrics.json"):
            rows = read_jsonl(path) if path.suffix == ".jsonl" else [json.loads(path.read_text(encoding="utf-8"))]
            found[name] = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
        else:
            found[name] = None if name in (*RECORDS, "manifest.json") else path.read_bytes()
    assert {*RESULTS, "history.jsonl", "metrics.json", "model/manifest.json"} <= found.keys()
    return found


def assert_same_results(one: Path, two: Path, names: list[str] = NAMES) -> None:
    for name in names:
        first, second = results(one / name), results(two / name)
        assert first.keys() == second.keys(), name
        for file in first:
            assert first[file] == second[file], f"{name}/{file}"


def test_runs_of_one_process_equal_separate_runs(
    command: Command, archive: Path, undisturbed: Path, tmp_path: Path
) -> None:
    assert sorted(path.name for path in undisturbed.iterdir() if path.is_dir()) == NAMES
    line = [*TINY, f"data.archive={archive}", "logger=none", "optimizer.lr=2e-3", "template=2", "hydra.run.dir=run"]
    assert command("train", *line, cwd=tmp_path).returncode == 0
    for file in RESULTS:
        assert (tmp_path / "run" / file).read_bytes() == (undisturbed / NAMES[-1] / file).read_bytes()
    ids = {json.loads((undisturbed / name / "run.json").read_text())["run_id"] for name in NAMES}
    assert len(ids) == len(NAMES)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["run_id"] in ids


@pytest.mark.slow
def test_isolated_runs_match(
    command: Command, environment: dict[str, str], undisturbed: Path, sweep: list[str], tmp_path: Path
) -> None:
    one = next(i for i, a in enumerate(sweep) if a.startswith("lora.r="))
    line = [*sweep[:one], "lora.r=4,2", *sweep[one + 1 :], "optimizer.lr=2e-3", "template=2"]
    (tmp_path / "sitecustomize.py").write_text(NOTES_STARTS)  # which every Python imports that starts
    modules = os.pathsep.join(filter(None, [str(tmp_path), environment.get("PYTHONPATH")]))
    done = command("train", *line, "sweep.isolate=true", cwd=tmp_path, env={"PYTHONPATH": modules})
    assert done.returncode == 0, done.stderr
    ranks = [start[2:] for start in read_jsonl(tmp_path / "starts.jsonl") if start[1:2] == ["llm_cls.training.rank"]]
    assert ranks == [[], []], "each run in a process of its own"
    for file in RESULTS:
        assert (tmp_path / "sweep" / "lora.r=4" / file).read_bytes() == (undisturbed / NAMES[-1] / file).read_bytes()
    assert "Epoch 2/2" in (tmp_path / "sweep" / "lora.r=4" / "train.log").read_text(encoding="utf-8")


def test_the_runs_of_one_process_share_what_they_load(program: Program, sweep: list[str], tmp_path: Path) -> None:
    line = [*sweep, "optimizer.lr=1e-3,2e-3,5e-3", "data.limit=16", "trainer.max_epochs=1", "data.cache_dir=cache"]
    done = program("tests.integration.loads", *line, cwd=tmp_path)
    assert done.returncode == 0 and "3 of 3 runs are done" in done.stdout, done.stderr
    loads = json.loads((tmp_path / "loads.json").read_text())
    assert loads == {"load_decoder": 1, "load_tokenizer": 1, "read_corpus": 1, "tokenize": 3}, "tokenize: each split"


def test_the_folds_of_a_cross_validation(command: Command, sweep: list[str], tmp_path: Path) -> None:
    done = command("train", *sweep, "data.folds=3", "data.fold=0,1,2", "trainer.max_epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = sorted(path.parent for path in (tmp_path / "sweep").glob("*/metrics.json"))
    assert [run.name for run in runs] == [f"data.fold={fold}" for fold in range(3)]
    tests = [read_jsonl(run / "predictions" / "test.jsonl") for run in runs]
    ids = sorted(row["id"] for rows in tests for row in rows)
    assert ids == [f"{label}/{label}-{i:04d}" for label in sorted(WORDS) for i in range(40)], "each text in one test"
    labels = [Counter(row["label"] for row in rows) for rows in tests]
    for label in WORDS:
        counts = [count[label] for count in labels]
        assert max(counts) - min(counts) <= 1, f"{label}: {counts}"


def test_the_same_command_again_trains_nothing(
    command: Command, archive: Path, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed.parents[2], tmp_path, dirs_exist_ok=True)
    undisturbed = tmp_path / "outputs" / "sweeps" / "grid"
    before = snapshot(undisturbed)
    line = ["--multirun", *TINY, *GRID, f"data.archive={archive}", "logger=none", "sweep.name=grid"]
    done = command("train", *line, cwd=tmp_path)
    assert done.returncode == 0 and "Epoch" not in done.stdout, done.stderr
    assert done.stdout.count("is already finished") == len(NAMES)
    assert snapshot(undisturbed) == before
    wider = [*line, "optimizer.lr=1e-3,2e-3,5e-3", "trainer.max_epochs=1"]
    refused = command("train", *wider, cwd=tmp_path)
    assert refused.returncode == 6
    assert "holds a run of another configuration (trainer.max_epochs: 2 there, 1 here)" in refused.stderr
    assert "in a sweep another sweep.name" in refused.stderr
    planned = snapshot(undisturbed)
    unknown = command("train", *line, "model=hf", "model.name=some/model", cwd=tmp_path)
    assert unknown.returncode == 6 and unknown.stderr.count("holds another run, which is finished: model.name:") == 4
    assert snapshot(undisturbed) == planned, "a refused command leaves no trace"
    swapped = command("train", *[a for a in line if a not in GRID], *reversed(GRID), cwd=tmp_path)
    assert swapped.returncode == 0 and swapped.stdout.count("is already finished") == len(NAMES), "the order of axes"
    after = snapshot(undisturbed)
    assert {k: v for k, v in after.items() if k in before and Path(k).parent != undisturbed} == {
        k: v for k, v in before.items() if Path(k).parent != undisturbed
    }, "what belongs to another run stays as it is"


def test_a_run_keeps_its_identity_when_axes_change(command: Command, sweep: list[str], tmp_path: Path) -> None:
    line = [*sweep, "data.limit=30", "trainer.max_epochs=1"]

    def train(*axes: str) -> tuple[int, list[str]]:
        done = command("train", *line, *axes, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.count("Epoch 1/1"), sorted(p.name for p in (tmp_path / "sweep").iterdir() if p.is_dir())

    assert train() == (1, ["run"])
    assert train("seed=42,1") == (1, ["run", "seed=1"]), "42 is the default"
    alone = train("seed=1", "data.micro_batch_size=4")
    assert alone == (0, ["run", "seed=1"]), "its own name would be run; the micro batch changes no result"


def test_failures_are_recorded_and_retried(command: Command, sweep: list[str], tmp_path: Path) -> None:
    line = [*sweep, "template=1,2", "data.max_length=32,4096", "trainer.max_epochs=1"]
    done = command("train", *line, cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    assert "2 of 4 runs of sweep failed" in done.stderr and "Traceback" not in done.stderr
    states = sweep_states(tmp_path / "sweep")
    assert sorted(state.name for state in states.values()) == ["failed", "failed", "finished", "finished"]
    failed = states["data.max_length=4096,template=1"]
    assert failed.reason.startswith("data.max_length must be <= 512") and failed.exit_code == 2
    shown = command("status", "dir=sweep", cwd=tmp_path)
    assert shown.returncode == 0 and shown.stdout.count("failed") == 3 and "2 of 4 runs are done" in shown.stdout
    again = command("train", *[a.replace("4096", "48") for a in line], cwd=tmp_path)
    assert again.returncode == 0, "another grid below the same name"
    assert again.stdout.count("is already finished") == 2


def test_what_is_in_the_way_of_a_run_can_be_moved_away(
    command: Command, start: Start, sweep: list[str], tmp_path: Path
) -> None:
    """It appears while the second run trains, and is found again before the retry."""
    line = [*sweep, "template=1,2", "trainer.max_epochs=1"]
    process = start(*line, cwd=tmp_path)
    wait_for(tmp_path / "sweep" / "template=2" / "run.json", process)
    blocked = tmp_path / "sweep" / "template=2" / "predictions" / "val.jsonl"
    blocked.mkdir(parents=True)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 6 and "1 of 2 runs of sweep failed" in errors, errors
    assert "val.jsonl: Is a directory" in errors, "the first attempt has trained"
    assert "template=2/predictions/val.jsonl must be a writable file" in errors.splitlines()[-1], "the retry has not"
    blocked.rmdir()
    done = command("train", *line, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("Resuming after the last epoch") == 1, done.stdout + done.stderr
    assert not (tmp_path / "sweep" / "template=2" / layout.FAILURE).exists()


def test_a_blocked_run_does_not_stop_others(command: Command, sweep: list[str], tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "template=1").write_text("mine")
    done = command("train", *sweep, "template=1,2", "trainer.max_epochs=1", cwd=tmp_path)
    assert done.returncode == 6 and "1 of 2 runs of sweep failed" in done.stderr, done.stderr
    assert "sweep/template=1 must be a writable folder. Move what is there out of the way" in done.stderr
    assert (tmp_path / "sweep" / "template=2" / "metrics.json").is_file()
    assert (tmp_path / "sweep" / "template=1").read_text() == "mine"


def test_files_removed_during_a_sweep_are_recreated(start: Start, sweep: list[str], tmp_path: Path) -> None:
    process = start(*sweep, "template=1,2", "trainer.max_epochs=5", "data.limit=48", cwd=tmp_path)
    run = tmp_path / "sweep" / "template=1"
    wait_for(run / "checkpoints" / "epoch-*-*.ckpt", process)
    process.send_signal(signal.SIGSTOP)
    (tmp_path / "sweep" / "sweep.jsonl").unlink()
    shutil.rmtree(run)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0 and "sweep/template=1 was removed during the run. Start it again" in errors, errors
    assert state_names(tmp_path / "sweep") == ["finished", "finished"]
    assert (run / "config.yaml").is_file() and len(read_jsonl(run / "history.jsonl")) == 5


def test_a_grid_of_grids_is_refused(command: Command, tmp_path: Path) -> None:
    done = command("train", "--multirun", *TINY, "experiment=lr_curve,lr_template", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "experiment=lr_curve is itself a grid and cannot be swept" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_command_line_key_replaces_an_axis(command: Command, sweep: list[str], tmp_path: Path) -> None:
    line = [*[a for a in sweep if not a.startswith("optimizer.lr=")], "experiment=lr_curve", "++optimizer.lr=1e-3"]
    by_the_clock = "+logger.group=g-${now:%f}"
    done = command("train", *line, by_the_clock, "optimizer.weight_decay=0,0.0", "trainer.max_epochs=1", cwd=tmp_path)
    assert done.returncode == 0 and "1 of 1 runs are done" in done.stdout, done.stderr


def test_faulty_combinations_are_refused_before_the_first_run(command: Command, tmp_path: Path) -> None:
    done = command("train", "--multirun", *TINY, "optimizer.lr=1e-3,-1", "lora.r=0,4", cwd=tmp_path)
    assert done.returncode == 2
    assert [line.split(" must")[0] for line in done.stderr.splitlines()] == ["Error: lora.r", "Error: optimizer.lr"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("launcher", "package", "extra"), [("submitit_slurm", "submitit", "slurm"), ("ray", "Ray", "ray")]
)
def test_a_launcher_without_its_package_says_what_to_install(
    command: Command, sweep: list[str], tmp_path: Path, launcher: str, package: str, extra: str
) -> None:
    if importlib.util.find_spec(package.lower()) is not None:
        pytest.skip(f"{package} is installed")
    done = command("train", *sweep, "template=1,2", f"hydra/launcher={launcher}", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    needs = f"hydra/launcher={launcher} needs {package}."
    assert done.stderr.splitlines() == [f"Error: {needs} Install it with: pip install -e '.[{extra}]'"]


@pytest.mark.slow
def test_several_devices_in_a_sweep(command: Command, sweep: list[str], tmp_path: Path) -> None:
    line = [*sweep, "optimizer.lr=1e-3,2e-3", "lora.lora_dropout=0", "trainer.max_epochs=1"]
    assert command("train", *line, "hydra.sweep.dir=one", cwd=tmp_path).returncode == 0
    done = command("train", *line, *TWO_PROCESSES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "sweep"], "no rank made a folder of its own"
    for name, lr in (("optimizer.lr=0.001", 1e-3), ("optimizer.lr=0.002", 2e-3)):
        records = [json.loads((tmp_path / d / name / "run.json").read_text()) for d in ("one", "sweep")]
        assert [record["world_size"] for record in records] == [1, 2]
        assert records[0]["run_id"] == records[1]["run_id"] and records[1]["identity"]["optimizer.lr"] == lr
        rows = [read_jsonl(tmp_path / d / name / "predictions" / "test.jsonl") for d in ("one", "sweep")]
        assert [r["prediction"] for r in rows[0]] == [r["prediction"] for r in rows[1]]
    assert len([path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]) == 2


def test_two_sweeps_of_one_name_share_the_work(
    start: Start, sweep: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    both = [start(*sweep, *GRID, cwd=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=TIMEOUT) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum(out.count("Epoch 1/") for out, _ in outputs) == len(NAMES), "each combination once"
    assert_same_results(tmp_path / "sweep", undisturbed)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        pytest.param(signal.SIGINT, 75, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_sweep_resumes(
    command: Command, start: Start, sweep: list[str], undisturbed: Path, tmp_path: Path,
    number: signal.Signals, code: int,
) -> None:  # fmt: skip
    process = start(*sweep, *GRID, cwd=tmp_path, own_group=True)
    wait_for(tmp_path / "sweep" / NAMES[1] / "checkpoints" / "epoch-*-*.ckpt", process)
    os.killpg(process.pid, number)  # as a terminal sends Ctrl-C
    assert_interrupted(process, number, code)
    names = state_names(tmp_path / "sweep")
    assert names == ["finished", "interrupted", "planned", "planned"]
    done = command("train", *sweep, *GRID, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is already finished") == 1 and "Resuming after the last epoch" in done.stdout
    assert_same_results(tmp_path / "sweep", undisturbed)


@pytest.mark.slow
def test_hyperband_keeps_the_winner(command: Command, sweep: list[str], tmp_path: Path) -> None:
    """Two of three epochs at least make one bracket: all are compared then, and the middle of the grid runs first."""
    line = [*sweep, "optimizer.lr=1e-7,2e-3,2e-7", "trainer.max_epochs=3", "pruner=hyperband", "pruner.min_epochs=2"]
    done = command("train", *line, "pruner.stop_collapsed=false", "optimizer.warmup_epochs=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {}
    for path in (tmp_path / "sweep").glob("*/metrics.json"):
        metrics = json.loads(path.read_text())
        found[path.parent.name.removeprefix("optimizer.lr=")] = (metrics["status"], metrics["epochs_run"])
    assert found == {"0.002": ("finished", 3), "1e-07": ("pruned", 2), "2e-07": ("pruned", 2)}


def test_pruned_and_diverged_runs_are_results(command: Command, sweep: list[str], tmp_path: Path) -> None:
    """The first that runs is the third of the grid: nothing is known yet, and only that it collapses can end it."""
    logged = [argument for argument in sweep if argument != "logger=none"]  # W&B, offline
    line = [*logged, "optimizer.lr=2e-3,1e30,1,1e-7", "pruner=median", "pruner.startup_runs=1", "trainer.max_epochs=4"]
    done = command("train", *line, "pruner.warmup_fraction=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {}
    for path in (tmp_path / "sweep").glob("*/metrics.json"):
        metrics = json.loads(path.read_text())
        found[path.parent.name] = (metrics["status"], metrics["epochs_run"])
        assert len(read_jsonl(path.parent / "predictions" / "test.jsonl")) == 12
    assert found["optimizer.lr=0.002"] == ("finished", 4)
    assert found["optimizer.lr=1e+30"] == ("diverged", 1)
    assert found["optimizer.lr=1e-07"] == ("pruned", 1)
    assert found["optimizer.lr=1"] == ("pruned", 1)
    collapsed = read_jsonl(tmp_path / "sweep" / "optimizer.lr=1" / "predictions" / "val.jsonl")
    assert len({row["prediction"] for row in collapsed}) == 1
    assert (tmp_path / "sweep" / "optimizer.lr=1e-07" / "model" / "manifest.json").is_file()
    runs = set()
    for lr in ("0.002", "1e+30", "1", "1e-07"):
        records = list(read_wandb(tmp_path / "sweep" / f"optimizer.lr={lr}"))
        run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        assert (run.run_group, list(run.tags)) == ("sweep", [f"optimizer.lr={lr}"])
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert config["optimizer"]["lr"] == float(lr)
        assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [0]
        runs.add(run.run_id)
    assert len(runs) == 4
