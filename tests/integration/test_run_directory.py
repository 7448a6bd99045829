"""The run-directory contract, file by file, of a run made by the real command."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support

from llm_cls.runs.config_file import read_config
from tests.jsonl import read_jsonl

from .conftest import SHIPPED_MODEL, Command


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_only_the_files_of_the_contract(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()} - {"train.log", "wandb", ".lock"}
    assert names == {
        "config.yaml", "run.json", "history.jsonl", "predictions", "model", "checkpoints", "manifest.json",
        "metrics.json",
    }  # fmt: skip
    assert not list((finished_run / "checkpoints").iterdir()), "a finished run resumes nothing"
    assert not [p for p in finished_run.rglob("*.tmp")]


def test_others_may_read_all_files_as_the_umask_says(finished_run: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for path in finished_run.rglob("*"):
        if "wandb" not in path.parts and path.name != ".lock":
            wanted = 0o777 if path.is_dir() else 0o666
            assert path.stat().st_mode & 0o777 == wanted & ~umask, path


def test_the_log_names_the_layers(finished_run: Path) -> None:
    assert " labels; fused layers" in (finished_run / "train.log").read_text(encoding="utf-8")


def test_config_is_the_full_configuration(finished_run: Path) -> None:
    config = read_config(finished_run / "config.yaml")
    assert (config.model.name, config.lora.r, config.data.max_length, config.optimizer.lr) == ("ja-mini", 4, 16, 2e-3)
    assert "${" not in (finished_run / "config.yaml").read_text(encoding="utf-8"), "everything is resolved"


def test_run_json(finished_run: Path) -> None:
    run = load(finished_run / "run.json")
    for key in ("schema", "run_id", "overrides", "git_commit", "versions", "hardware", "started_at", "finished_at"):
        assert key in run
    assert run["finished_at"] >= run["started_at"]
    assert run["world_size"] == 1
    assert "model=ja-mini" in run["overrides"]
    data = run["data"]
    assert (data["name"], data["n_train"], data["n_val"], data["n_test"]) == ("livedoor", 96, 12, 12)
    assert data["labels"] == ["movie-enter", "smax", "sports-watch"]
    assert any("digest" in warning for warning in data["warnings"]), "it is not the official corpus"
    assert run["model"]["name"] == "ja-mini"
    # LoRA of rank 4 on the 4 linear layers of 6 blocks: r * (in + out) each; and the head.
    linear = 4 * ((256 + 768) + (256 + 256) + (256 + 1024) + (1024 + 256))
    assert run["model"]["trainable_parameters"] == 6 * linear + 3 * 256
    assert run["model"]["parameters"] > 7_000_000


def test_history(finished_run: Path) -> None:
    history = read_jsonl(finished_run / "history.jsonl")
    assert [row["epoch"] for row in history] == [1, 2]
    for row in history:
        assert set(row) == {
            "epoch", "train_loss", "val", "lr", "seconds", "tokens_per_second", "peak_memory_gib",
        }  # fmt: skip
        assert set(row["val"]) == {"loss", "accuracy", "precision", "recall", "f1"}
    assert history[0]["lr"] == pytest.approx(2e-3), "the peak, after one epoch of warm-up"
    assert history[1]["lr"] == pytest.approx(0, abs=1e-12), "0 at the end"
    assert history[1]["train_loss"] < history[0]["train_loss"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_scores_are_those_of_scikit_learn_on_the_predictions(finished_run: Path, split: str) -> None:
    metrics, run = load(finished_run / "metrics.json"), load(finished_run / "run.json")
    rows, labels = read_jsonl(finished_run / "predictions" / f"{split}.jsonl"), run["data"]["labels"]
    assert set(rows[0]) == {"id", "label", "prediction", "probabilities", "title"}
    truth, predicted = [row["label"] for row in rows], [row["prediction"] for row in rows]
    p = np.array([[row["probabilities"][label] for label in labels] for row in rows])
    assert len({row["id"] for row in rows}) == len(rows) == run["data"][f"n_{split}"] == metrics[split]["n"]
    assert p.sum(axis=1) == pytest.approx(1)
    assert [labels[i] for i in p.argmax(axis=1)] == predicted
    macro = precision_recall_fscore_support(truth, predicted, labels=labels, average="macro", zero_division=0)[:3]
    found = metrics[split]
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx(macro)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["loss"] == pytest.approx(log_loss(truth, p, labels=labels))


def test_metrics(finished_run: Path) -> None:
    metrics, history = load(finished_run / "metrics.json"), read_jsonl(finished_run / "history.jsonl")
    assert set(metrics) == {
        "schema", "status", "collapsed", "best_epoch", "epochs_run", "val", "test", "per_class", "seconds",
        "tokens_per_second", "peak_memory_gib",
    }  # fmt: skip
    assert metrics["status"] == "finished"
    f1 = [row["val"]["f1"] for row in history]
    assert metrics["best_epoch"] == f1.index(max(f1)) + 1, "the first of the best epochs"
    assert metrics["val"]["f1"] == pytest.approx(max(f1)), "the figures are of the best epoch"
    low, high = metrics["test"]["f1_ci95"]
    assert 0 <= low <= metrics["test"]["f1"] <= high <= 1
    assert sum(row["support"] for row in metrics["per_class"].values()) == metrics["test"]["n"]
    assert set(metrics["seconds"]) == {"total", "per_epoch", "test"}
    assert 0 < metrics["seconds"]["test"] < metrics["seconds"]["total"]
    rows = read_jsonl(finished_run / "predictions" / "test.jsonl")
    truth, predicted = [r["label"] for r in rows], [r["prediction"] for r in rows]
    each = f1_score(truth, predicted, labels=list(metrics["per_class"]), average=None, zero_division=0)
    assert [row["f1"] for row in metrics["per_class"].values()] == pytest.approx(list(each))


def test_model_files_and_their_checksums(finished_run: Path) -> None:
    folder = finished_run / "model"
    manifest = load(folder / "manifest.json")
    names = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert set(manifest) == names
    assert {"adapter_config.json", "adapter_model.safetensors", "head.safetensors", "labels.json"} <= names
    for name, digest in manifest.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert load(folder / "adapter_config.json")["base_model_name_or_path"] == "ja-mini"


def test_adapter_is_an_ordinary_peft_adapter(finished_run: Path) -> None:
    """Plain PEFT and transformers, without this package's model code, give the same probabilities."""
    import peft
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    import llm_cls

    base = Path(llm_cls.__file__).parent / "assets" / "ja_mini"
    decoder = AutoModel.from_pretrained(base, dtype=torch.float32)
    network = peft.PeftModel.from_pretrained(decoder, str(finished_run / "model")).eval()
    head = load_file(finished_run / "model" / "head.safetensors")["weight"]
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "model")
    row = read_jsonl(finished_run / "predictions" / "test.jsonl")[0]
    run = load(finished_run / "run.json")
    body = next(body for name, body in _articles(finished_run) if name == row["id"])
    ids = tokenizer(f"{row['title']}\n{body}", add_special_tokens=False)["input_ids"][:15]
    ids = [*ids, tokenizer.eos_token_id]
    with torch.no_grad():
        last = network(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    p = torch.softmax(head @ last, 0)
    assert p.tolist() == pytest.approx([row["probabilities"][label] for label in run["data"]["labels"]], abs=1e-5)


def _articles(run: Path) -> list[tuple[str, str]]:
    from llm_cls.data.load import load_corpus

    corpus = load_corpus(read_config(run / "config.yaml").data)
    return [(text.id, text.body) for texts in corpus.splits.values() for text in texts]


def test_console_shows_scores_directory_and_next_commands(finished_run: Path) -> None:
    shown = (finished_run.parent / "stdout.txt").read_text(encoding="utf-8")
    for part in ("val F1", "test  F1", "Run directory: run", "llm_cls.predict run=run", "wandb sync run"):
        assert part in shown
    assert "Traceback" not in shown and "Warning" not in shown


def test_finished_run_is_not_repeated(finished_run: Path, command: Command, archive: Path) -> None:
    before = {
        p: p.stat().st_mtime_ns for p in finished_run.rglob("*") if p.is_file() and p.name not in ("train.log", ".lock")
    }
    again = command(
        "train", *SHIPPED_MODEL, f"data.archive={archive}", "hydra.run.dir=run", "logger=none",
        "data.micro_batch_size=4", cwd=finished_run.parent,
    )  # fmt: skip
    assert again.returncode == 0 and "already finished" in again.stdout
    assert all(p.stat().st_mtime_ns == mtime for p, mtime in before.items())


def test_directory_of_another_run_is_refused(finished_run: Path, command: Command, archive: Path) -> None:
    other = command(
        "train", *SHIPPED_MODEL, f"data.archive={archive}", "hydra.run.dir=run", "seed=7", cwd=finished_run.parent
    )  # fmt: skip
    assert other.returncode == 2
    assert "seed: 42 there, 7 here" in other.stderr and other.stderr.count("\n") == 1


def test_damaged_directory_is_refused_and_stays_as_it_is(
    finished_run: Path, command: Command, archive: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    with (tmp_path / "run" / "history.jsonl").open("a") as history:
        history.write('{"epoch": 3, "va')
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != "train.log"}
    done = command("train", *SHIPPED_MODEL, f"data.archive={archive}", "hydra.run.dir=run", "logger=none", cwd=tmp_path)
    assert done.returncode == 5 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("Error: ") and "run/history.jsonl is damaged: its sha256 must be" in done.stderr
    assert all(path.read_bytes() == content for path, content in before.items())
