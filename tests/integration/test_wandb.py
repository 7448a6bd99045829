"""The W&B run of a finished run, read back from its offline files."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import confusion_matrix

from tests.jsonl import read_jsonl

from .conftest import TIMEOUT, TINY, Command, Start
from .processes import alive, children, state_names, wait_for
from .test_run_directory import load
from .wandb_files import item_key, read_table, read_wandb


@pytest.mark.slow
def test_the_runs_of_a_sweep_outlive_the_process_of_wandb(start: Start, archive: Path, tmp_path: Path) -> None:
    """It is killed in the first run, which continues without it; the second run starts another."""
    line = ["--multirun", *TINY, f"data.archive={archive}", "template=1,2", "hydra.sweep.dir=sweep"]
    process = start(*line, cwd=tmp_path)
    wait_for(tmp_path / "sweep" / "template=1" / "checkpoints" / "epoch-*-*.ckpt", process)
    (service,) = [pid for pid in children(process.pid) if "wandb" in Path(f"/proc/{pid}/comm").read_text()]
    os.kill(service, signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (0, "")
    assert state_names(tmp_path / "sweep") == ["finished", "finished"]
    assert "W&B" in (tmp_path / "sweep" / "template=1" / "train.log").read_text(encoding="utf-8")
    kinds = {record.WhichOneof("record_type") for record in read_wandb(tmp_path / "sweep" / "template=2")}
    assert {"history", "exit"} <= kinds


@pytest.mark.slow
def test_a_run_ends_where_the_process_of_wandb_is_stopped(start: Start, archive: Path, tmp_path: Path) -> None:
    line = [*TINY, f"data.archive={archive}", "trainer.max_epochs=4", "hydra.run.dir=run", "logger.timeout_seconds=3"]
    process = start(*line, cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoints" / "epoch-*-*.ckpt", process)
    (service,) = [pid for pid in children(process.pid) if "wandb" in Path(f"/proc/{pid}/comm").read_text()]
    os.kill(service, signal.SIGSTOP)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (0, "")
    assert (tmp_path / "run" / "metrics.json").is_file() and not alive(service)
    assert "Upload it with: wandb sync run/wandb/offline-run-" in (tmp_path / "run" / "train.log").read_text("utf-8")


def test_a_resumed_run_has_one_identity(start: Start, command: Command, archive: Path, tmp_path: Path) -> None:
    line = [*TINY, f"data.archive={archive}", "trainer.max_epochs=3", "hydra.run.dir=run"]
    process = start(*line, cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoints" / "epoch-*-*.ckpt", process)
    process.kill()
    process.wait()
    assert command("train", *line, cwd=tmp_path).returncode == 0
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and len({folder.name.rpartition("-")[2] for folder in folders}) == 1


@pytest.mark.slow
def test_each_run_ends_with_its_own_exit_code(start: Start, archive: Path, tmp_path: Path) -> None:
    """The first one fails when it is to write its predictions, the second one is interrupted."""
    line = ["--multirun", *TINY, f"data.archive={archive}", "template=1,2", "hydra.sweep.dir=sweep"]
    process = start(*line, "trainer.max_epochs=4", cwd=tmp_path)
    wait_for(tmp_path / "sweep" / "template=1" / "run.json", process)
    (tmp_path / "sweep" / "template=1" / "predictions" / "val.jsonl").mkdir(parents=True)
    wait_for(tmp_path / "sweep" / "template=2" / "checkpoints" / "epoch-*-*.ckpt", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, errors
    codes = []
    for template in (1, 2):
        records = read_wandb(tmp_path / "sweep" / f"template={template}")
        codes += [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    assert codes == [4, 75]


def test_runs_finish_when_home_is_not_writable(command: Command, archive: Path, tmp_path: Path) -> None:
    """W&B keeps the files of tables there."""
    line = [*TINY, f"data.archive={archive}", "trainer.max_epochs=1", "hydra.run.dir=run"]
    done = command("train", *line, cwd=tmp_path, env={"HOME": "/proc/nobody"})
    assert done.returncode == 0 and (tmp_path / "run" / "metrics.json").is_file(), done.stderr
    assert "W&B failed, the run continues without it: Unable to write" in done.stdout


def test_curves_summary_and_configuration(finished_run: Path) -> None:
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    config, exit_code = set(), None
    for record in read_wandb(finished_run):
        if record.WhichOneof("record_type") == "history":
            history.append({item_key(item): json.loads(item.value_json) for item in record.history.item})
        summary |= {item_key(item): json.loads(item.value_json) for item in record.summary.update}
        config |= {item.key for item in record.run.config.update}
        if record.WhichOneof("record_type") == "exit":
            exit_code = record.exit.exit_code
    metrics = load(finished_run / "metrics.json")
    for row, logged in zip(read_jsonl(finished_run / "history.jsonl"), history, strict=False):
        expected = {f"val/{name}": row["val"][name] for name in ("loss", "accuracy", "precision", "recall", "f1")}
        expected |= {name: row[name] for name in ("epoch", "lr", "seconds", "tokens_per_second", "peak_memory_gib")}
        assert {name: logged[name] for name in expected} == pytest.approx(expected)
        assert logged["train/loss"] == pytest.approx(row["train_loss"])
    assert len(history) == metrics["epochs_run"] + 1, "the epochs, then the tables"
    for name in ("status", "collapsed", "best_epoch", "tokens_per_second", "peak_memory_gib"):
        assert summary[name] == metrics[name]
    for split in ("val", "test"):
        assert summary[f"best/{split}/f1"] == metrics[split]["f1"]
    assert summary["total_seconds"] == metrics["seconds"]["total"]
    assert {"model", "optimizer", "lora", "data", "seed", "run"} <= config
    assert exit_code == 0


def test_the_table_of_predictions_has_each_text_with_its_title(finished_run: Path) -> None:
    rows = read_jsonl(finished_run / "predictions" / "test.jsonl")
    labels = load(finished_run / "run.json")["data"]["labels"]
    columns, data = read_table(finished_run, "test/predictions")
    assert columns == ["id", "title", "label", "prediction", "correct", *(f"p({label})" for label in labels)]
    assert len(data) == len(rows) > 0 and all(row["title"] for row in rows)
    for row, logged in zip(rows, data, strict=True):
        assert logged[:4] == [row["id"], row["title"], row["label"], row["prediction"]]
        assert logged[4] == (row["label"] == row["prediction"])
        assert logged[5:] == pytest.approx([row["probabilities"][label] for label in labels])


def test_confusion_matrix_and_per_class_table(finished_run: Path) -> None:
    rows = read_jsonl(finished_run / "predictions" / "test.jsonl")
    labels = load(finished_run / "run.json")["data"]["labels"]
    _, cells = read_table(finished_run, "test/confusion_matrix_table")
    true, predicted = ([row[key] for row in rows] for key in ("label", "prediction"))
    expected = confusion_matrix(true, predicted, labels=labels)
    assert {(a, p): n for a, p, n in cells} == {
        (a, p): expected[i, j] for i, a in enumerate(labels) for j, p in enumerate(labels)
    }
    columns, data = read_table(finished_run, "test/per_class")
    per_class = load(finished_run / "metrics.json")["per_class"]
    assert {row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in data} == per_class
