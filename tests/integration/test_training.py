"""What a run must survive: several devices, interruption, divergence, company."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_cls.runs.manifest import write_manifest
from tests.fork_server import ForkServer
from tests.jsonl import read_jsonl

from .conftest import TIMEOUT, TINY, Command, Start
from .processes import alive, children, wait_for


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def arguments(archive: Path) -> list[str]:
    return [*TINY, f"data.archive={archive}", "logger=none"]


def test_two_processes_match_one(command: Command, arguments: list[str], tmp_path: Path) -> None:
    """Batches of 15 and 96 training texts, weighted: uneven shares and a last step of 6 texts."""
    weighted = ["loss.class_weights={smax:3,movie-enter:0.5}", "loss.label_smoothing=0.1", "trainer.monitor=mcc"]
    same = [*arguments, *weighted, "data.batch_size=15", "lora.lora_dropout=0"]
    one = command("train", *same, "hydra.run.dir=one", cwd=tmp_path)
    two = command(
        "train", *same, "hydra.run.dir=two", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        cwd=tmp_path,
    )  # fmt: skip
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    runs = [load(tmp_path / name / "run.json") for name in ("one", "two")]
    assert [run["world_size"] for run in runs] == [1, 2]
    assert runs[0]["run_id"] == runs[1]["run_id"], "the number of devices doesn't change what is learnt"
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}, "the ranks made no directory of their own"
    for split in ("val", "test"):
        first, second = (read_jsonl(tmp_path / name / "predictions" / f"{split}.jsonl") for name in ("one", "two"))
        assert [(r["id"], r["label"], r["prediction"]) for r in first] == [
            (r["id"], r["label"], r["prediction"]) for r in second
        ]
        p, q = (np.array([list(r["probabilities"].values()) for r in rows]) for rows in (first, second))
        assert np.abs(p - q).max() < 1e-4
    losses = [[row["train_loss"] for row in read_jsonl(tmp_path / name / "history.jsonl")] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    metrics, history = load(tmp_path / "two" / "metrics.json"), read_jsonl(tmp_path / "two" / "history.jsonl")
    scores = [row["val"]["mcc"] for row in history]
    assert metrics["best_epoch"] == 1 + scores.index(max(scores)) and metrics["val"]["mcc"] == max(scores)
    assert metrics["test"]["monitor_ci95"][0] <= metrics["test"]["mcc"] <= metrics["test"]["monitor_ci95"][1]
    assert "chosen by val MCC" in two.stdout


def test_train_loss_is_the_mean_over_the_texts(command: Command, arguments: list[str], tmp_path: Path) -> None:
    """With a network that stays as it is, however the 96 texts are parted: into one step, or six of 15 and one of 6."""
    done = command(
        "train", "--multirun", *arguments, "data.batch_size=96,15", "lora.lora_dropout=0", "trainer.max_epochs=1",
        "optimizer.lr=1e-30", "hydra.sweep.dir=sweep", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [read_jsonl(path)[0]["train_loss"] for path in (tmp_path / "sweep").glob("*/history.jsonl")]
    assert len(losses) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_micro_batches_do_not_change_the_result(command: Command, arguments: list[str], tmp_path: Path) -> None:
    for size in (16, 3):
        done = command(
            "train", *arguments, "lora.lora_dropout=0", f"data.micro_batch_size={size}", f"hydra.run.dir=m{size}",
            cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    whole, parts = (read_jsonl(tmp_path / f"m{size}" / "history.jsonl") for size in (16, 3))
    for a, b in zip(whole, parts, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["val"]["loss"] == pytest.approx(b["val"]["loss"], rel=1e-4)


def test_killed_run_resumes_bitwise_and_interrupts_exit_with_75(
    command: Command, arguments: list[str], start: Start, tmp_path: Path
) -> None:
    line = [*arguments, "trainer.max_epochs=3"]
    undisturbed = command("train", *line, "hydra.run.dir=whole", cwd=tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 75)):
        process = start(*line, "hydra.run.dir=broken", cwd=tmp_path)
        wait_for(tmp_path / "broken" / "checkpoints" / "epoch-*-*.ckpt", process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == code, errors
        if code == 75:
            assert "Resume with the same command and hydra.run.dir=broken" in errors and "Traceback" not in errors
        assert not (tmp_path / "broken" / "metrics.json").exists()
        record = load(tmp_path / "broken" / "run.json")
        elsewhere = "" if number == signal.SIGKILL else f"{record['threads'] + 1} before, {record['threads']} now"
        if elsewhere:  # as if it had begun with one thread more
            record["threads"] += 1
            texts = {
                "config.yaml": (tmp_path / "broken" / "config.yaml").read_text("utf-8"),
                "run.json": json.dumps(record),
            }
            (tmp_path / "broken" / "run.json").write_text(texts["run.json"])
            write_manifest(tmp_path / "broken", record["run_id"], texts, complete=False)
        resumed = command("train", *line, "hydra.run.dir=broken", cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        warning = f"This run began under other conditions (threads (OMP_NUM_THREADS): {elsewhere}): results may differ"
        assert resumed.stdout.count("other conditions") == bool(elsewhere) == (warning in resumed.stdout)
        assert "Resuming after the last epoch" in resumed.stdout
        for name in ("predictions/val.jsonl", "predictions/test.jsonl", "model/adapter_model.safetensors"):
            assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
        histories = [read_jsonl(tmp_path / run / "history.jsonl") for run in ("whole", "broken")]
        for a, b in zip(*histories, strict=True):
            assert (a["epoch"], a["train_loss"], a["val"]) == (b["epoch"], b["train_loss"], b["val"])
        total = load(tmp_path / "broken" / "metrics.json")["seconds"]["total"]
        assert total > sum(epoch["seconds"] for epoch in histories[1]), "also those before the interruption"
        (tmp_path / "broken").rename(tmp_path / f"after-{number.name}")


def test_diverged_run_is_a_result(command: Command, arguments: list[str], tmp_path: Path) -> None:
    done = command(
        "train", *arguments, "optimizer.lr=1e30", "optimizer.warmup_epochs=0", "hydra.run.dir=run", cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = load(tmp_path / "run" / "metrics.json")
    assert (metrics["status"], metrics["collapsed"], metrics["best_epoch"]) == ("diverged", True, None)
    for split in ("val", "test"):
        assert {metrics[split][k] for k in ("loss", "accuracy", "precision", "recall", "f1")} == {None}
        rows = read_jsonl(tmp_path / "run" / "predictions" / f"{split}.jsonl")
        assert all(row["prediction"] is None and set(row["probabilities"].values()) == {None} for row in rows)
    assert metrics["epochs_run"] == 1, "what is not a number never becomes one again"
    assert "diverged" in done.stdout
    again = command("predict", "run=run", "input=x.csv", "output=y.csv", cwd=tmp_path)
    assert again.returncode == 5 and "diverged" in again.stderr


def test_collapsed_run_is_a_result(command: Command, arguments: list[str], tmp_path: Path) -> None:
    """A learning rate of zero, nearly: the untrained head gives every text one label."""
    done = command("train", *arguments, "optimizer.lr=1e-12", "trainer.max_epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = load(tmp_path / "run" / "metrics.json")
    rows = read_jsonl(tmp_path / "run" / "predictions" / "val.jsonl")
    missing = {row["label"] for row in rows} - {row["prediction"] for row in rows}
    assert metrics["collapsed"] == (2 * len(missing) >= 3)
    assert metrics["status"] == "finished"


def test_two_processes_in_one_directory(command: Command, arguments: list[str], start: Start, tmp_path: Path) -> None:
    line = [*arguments, "trainer.max_epochs=200", "hydra.run.dir=run"]
    first = start(*line, cwd=tmp_path)
    wait_for(tmp_path / "run" / "run.json", first)
    second = command("train", *arguments, "trainer.max_epochs=200", "hydra.run.dir=run", cwd=tmp_path)
    assert second.returncode == 4 and "in use by another process" in second.stderr
    assert second.stderr.count("\n") == 1
    assert first.poll() is None, "the first is not disturbed"
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=TIMEOUT)
    assert first.returncode == 75, errors


@pytest.mark.parametrize(
    ("overrides", "files"),
    [
        (["lora=none"], {"head.safetensors"}),
        (["lora=none", "lora.full=true", "optimizer.lr=1e-4"], {"head.safetensors", "model.safetensors"}),
        (
            ["lora.use_rslora=true", "lora.use_dora=true", "template=0"],
            {"head.safetensors", "adapter_model.safetensors"},
        ),
    ],
)
def test_other_ways_to_train(
    command: Command, arguments: list[str], tmp_path: Path, overrides: list[str], files: set[str]
) -> None:
    base = [a for a in arguments if not a.startswith("lora.r=") and not a.startswith("lora.target")]
    lora = [] if "lora=none" in overrides else ["lora.target_modules=all-linear"]
    done = command(
        "train", *base, *lora, *overrides, "trainer.max_epochs=1", "data.limit=32", "hydra.run.dir=run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    weights = {path.name for path in (tmp_path / "run" / "model").glob("*.safetensors")}
    assert weights == files
    (tmp_path / "in.jsonl").write_text(json.dumps({"title": "試合", "body": "選手が優勝。"}), encoding="utf-8")
    again = command("predict", "run=run", "input=in.jsonl", "output=out.jsonl", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_lost_rank_ends_the_run(arguments: list[str], start: Start, tmp_path: Path, number: signal.Signals) -> None:
    line = [*arguments, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=500"]
    process = start(*line, "trainer.timeout_seconds=6", "hydra.run.dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoints" / "epoch-*-*.ckpt", process)
    ranks = children(process.pid)
    lost = next(pid for pid in ranks if rank_of(pid) == "1")
    os.kill(lost, number)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, errors
    verb = "stopped" if number == signal.SIGSTOP else "killed"
    said = rf"Error: Rank 1 \(pid {lost}\) was {verb} by {number.name}.*Resume with the same command and .*"
    assert re.fullmatch(said, errors.splitlines()[-1]) and "Traceback" not in errors, errors
    assert not any(alive(pid) for pid in ranks)


def start_as_torchrun(start: Start, folder: Path, *line: str) -> list[Any]:
    """Two ranks that train in ``run`` below ``folder`` until they are ended, and have a checkpoint."""
    line = (*line, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=500")
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        start(*line, "hydra.run.dir=run", cwd=folder, env=together | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    wait_for(folder / "run" / "checkpoints" / "epoch-*-*.ckpt", ranks[0])
    return ranks


@pytest.mark.parametrize("one", [0, 1])
@pytest.mark.slow
def test_a_signal_to_one_rank_of_torchrun_ends_all(
    arguments: list[str], start: Start, tmp_path: Path, one: int
) -> None:
    """At once: none waits until trainer.timeout_seconds, which are longer than this test may take."""
    ranks = start_as_torchrun(start, tmp_path, *arguments, "trainer.timeout_seconds=3600")
    ranks[one].send_signal(signal.SIGTERM)
    errors = [rank.communicate(timeout=TIMEOUT)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [75, 75], errors
    assert errors[one].startswith("Error: Interrupted by SIGTERM. Resume with the same command and "), errors
    assert "has lost the connection to another rank" in errors[1 - one], errors


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.slow
def test_a_stopped_rank_of_torchrun_is_named_by_another(
    arguments: list[str], start: Start, tmp_path: Path, lost: int
) -> None:
    """Rank 0 has the store by which the ranks watch one another."""
    ranks = start_as_torchrun(start, tmp_path, *arguments, "trainer.timeout_seconds=10")
    ranks[lost].send_signal(signal.SIGSTOP)
    _, errors = ranks[1 - lost].communicate(timeout=TIMEOUT)
    assert ranks[1 - lost].returncode == 75, errors
    assert re.fullmatch(
        rf"Error: Rank {lost} \(pid {ranks[lost].pid} on .*\) has not responded for 5 s .*Resume with .*\n", errors
    ), errors


def rank_of(pid: int) -> str:
    """The variable RANK of a process."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(variable.split("=", 1) for variable in variables if variable)["RANK"]


@pytest.mark.parametrize(
    ("key", "values", "part"),
    [("seed", "01", "differ in their configuration"), ("hydra.run.dir", "ab", "differ in their run directory")],
)
def test_ranks_that_differ_refuse_to_train(
    arguments: list[str], start: Start, tmp_path: Path, key: str, values: str, part: str
) -> None:
    """As torchrun starts them on two machines."""
    given = {"hydra.run.dir": "run", "trainer.num_nodes": "2", "trainer.devices": "1", "trainer.accelerator": "cpu"}
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    ranks = []
    for rank in range(2):
        own = [f"{name}={value}" for name, value in (given | {key: values[rank]}).items()]
        env = together | {"RANK": str(rank), "NODE_RANK": str(rank)}
        ranks.append(start(*arguments, "trainer=ddp", *own, cwd=tmp_path, env=env))
    errors = [rank.communicate(timeout=TIMEOUT)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], errors
    assert all(part in error and "Traceback" not in error for error in errors), errors
    assert not list(tmp_path.rglob("history.jsonl"))


@pytest.mark.slow
def test_torchrun_on_two_nodes(
    command: Command, server: ForkServer, arguments: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    """Two of torchrun's nodes on this machine, in one run directory."""
    same = [*arguments, "trainer.max_epochs=1", "lora.lora_dropout=0"]
    assert command("train", *same, "hydra.run.dir=one", cwd=tmp_path).returncode == 0
    more = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2", "hydra.run.dir=run"]
    torchrun = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    nodes = [
        server.start(
            "torch.distributed.run",
            [*torchrun, f"--node-rank={i}", "-m", "llm_cls.train", *same, *more],
            tmp_path,
            environment,
        )
        for i in range(2)
    ]
    errors = [node.communicate(timeout=TIMEOUT)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    assert load(tmp_path / "run" / "run.json")["world_size"] == 2
    rows = [read_jsonl(tmp_path / name / "predictions" / "test.jsonl") for name in ("one", "run")]
    assert [r["prediction"] for r in rows[0]] == [r["prediction"] for r in rows[1]]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.slow
def test_orphaned_ranks_end(start: Start, arguments: list[str], tmp_path: Path) -> None:
    """kill -9 of the command ends its ranks as well, so that the run can go on at once."""
    line = [*arguments, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=50"]
    process = start(*line, "hydra.run.dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoints" / "epoch-*-*.ckpt", process)
    ranks = children(process.pid)
    assert len(ranks) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + TIMEOUT
    while any(alive(pid) for pid in ranks):
        assert time.monotonic() < deadline, "the ranks outlive their parent"
        time.sleep(0.1)
