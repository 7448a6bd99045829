"""Synthetic run directories in the format that training writes."""

import csv
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from llm_cls.files import sha256_json, write_json, write_jsonl
from llm_cls.metrics.scores import SCORES, confusion_matrix, per_class, scores
from llm_cls.metrics.statistics import ci95
from tests.jsonl import read_jsonl

LABELS = (
    "dokujo-tsushin", "it-life-hack", "kaden-channel", "livedoor-homme", "movie-enter", "peachy", "smax",
    "sports-watch", "topic-news",
)  # fmt: skip
TITLES = (
    "【話題】スマートフォンの新製品、電池は1日もつのか", "独女が選ぶ週末の映画10本", "本日のニュース総まとめ",
    "家電量販店で売れている掃除機ランキング", "Androidアプリ「メモ帳」の使い方を徹底解説する",
)  # fmt: skip
TEMPLATES = {
    0: "タイトル: {title}\n本文: {body}\nラベル: ",
    1: "タイトル: {title}\n本文: {body}",
    2: "{title}\n{body}",
}
COLLAPSED_BELOW = 0.3


def configuration(**axes: Any) -> dict[str, Any]:
    """A full configuration; ``axes`` are model, template, lr, batch_size, lora_r, seed and the split's keys."""
    template = axes.get("template", 2)
    return {
        "model": {
            "name": axes.get("model", "rinna/japanese-gpt-neox-3.6b"), "revision": None, "weights": "pretrained",
            "architecture": {}, "tokenizer": None, "tokenizer_kind": "auto", "pooling": "last", "add_bos": None,
            "trust_remote_code": False,
        },
        "template": {"name": str(template), "text": TEMPLATES.get(template, "{body}")},
        "data": {
            "name": axes.get("data", "livedoor"), "cache_dir": axes.get("cache_dir", "absent"), "url": "http://127.0.0.1/x.tar.gz",
            "archive": None, "file": None, "train_file": None, "val_file": None, "test_file": None, "text": None,
            "title": None, "body": None, "label": None, "id": None, "split_seed": axes.get("split_seed", 42),
            **{key: axes[key] for key in ("folds", "fold") if key in axes}, "limit": None, "max_length": 512,
            "truncation": "body", "batch_size": axes.get("batch_size", 32), "micro_batch_size": None,
            "eval_batch_size": None, **{key: axes[key] for key in ("file",) if key in axes},
        },
        "lora": {
            "enabled": True, "full": False, "r": axes.get("lora_r", 32), "lora_alpha": 16.0, "lora_dropout": 0.1,
            "target_modules": None, "use_rslora": False, "use_dora": False,
        },
        "optimizer": {
            "lr": axes.get("lr", 5e-4), "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "warmup_epochs": 1.0,
            "max_grad_norm": None,
        },
        "engine": {"name": "reference", "gradient_checkpointing": None},
        "trainer": {
            "accelerator": "auto", "devices": 1, "num_nodes": 1, "precision": "auto", "max_epochs": 10,
            "early_stopping_patience": None, "progress_bar": True,
            **{key: axes[key] for key in ("monitor",) if key in axes},
        },
        "logger": {"name": "none", "mode": "auto", "project": "llm_cls", "entity": None, "group": None, "tags": []},
        "seed": axes.get("seed", 42),
    }  # fmt: skip


def predict(
    quality: float,
    n_texts: int,
    seed: int,
    labels: tuple[str, ...] = LABELS,
    titles: tuple[str, ...] = TITLES,
    texts: tuple[dict[str, str], ...] = (),
) -> list[dict[str, Any]]:
    """Predictions of a classifier that is right on about ``quality`` of the texts; texts are the same for all seeds."""
    true = np.arange(n_texts) % len(labels)
    hardness = np.random.default_rng(0).random(n_texts)
    rng = np.random.default_rng(seed + 1)
    other = (true + rng.integers(1, len(labels), n_texts)) % len(labels)
    ranks = np.argsort(np.argsort(0.7 * hardness + 0.3 * rng.random(n_texts)))
    right = ranks < round(quality * n_texts)
    top = rng.uniform(0.3, 1, n_texts) ** np.where(right, 0.15, 0.8)
    rows = []
    for i in range(n_texts):
        best = int(true[i] if right[i] else other[i])
        p = np.full(len(labels), (1 - top[i]) / (len(labels) - 1))
        p[best] = top[i]
        rows.append(
            {
                "id": f"{labels[true[i]]}/{labels[true[i]]}-{4000000 + i}",
                "label": labels[true[i]],
                "prediction": labels[best],
                "probabilities": dict(zip(labels, p.tolist(), strict=True)),
                **({"columns": texts[i % len(texts)]} if texts else {"title": titles[i % len(titles)]}),
            }
        )
    return rows


def make_run(
    directory: Path, *, quality: float = 0.95, seed: int = 42, status: str = "finished", n_test: int = 180,
    val_f1: float | None = None, test: dict[str, float] | None = None, best_epoch: int | None = 7,
    predictions: Path | None = None, labels: tuple[str, ...] = LABELS, titles: tuple[str, ...] = TITLES,
    seconds: float = 1200.0, digest: str = "d" * 64, texts: tuple[dict[str, str], ...] = (),
    val_monitor: float | None = None, **axes: Any,
) -> Path:  # fmt: skip
    """Writes one run directory.

    Args:
        directory: The run directory.
        quality: Share of test texts that are right.
        seed: Of the run.
        status: "finished", "diverged", "pruned"; "running" leaves ``metrics.json`` out.
        n_test: Number of test texts.
        val_f1: The val F1; about ``quality`` if None.
        test: accuracy, precision, recall and f1 instead of predictions and their scores.
        best_epoch: See the contract.
        predictions: Folder with predictions of an earlier run to link instead of writing new ones.
        labels: All labels.
        titles: Titles of the texts, repeated.
        seconds: Of the whole run.
        digest: Of the data.
        texts: Columns of own texts, repeated, instead of titles.
        val_monitor: Val figure of the monitored score, if it is not F1.
        axes: See ``configuration``.
    """
    config = configuration(seed=seed, **axes)
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(
        yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8"
    )
    record = {
        "schema": 1, "run_id": sha256_json([config, digest])[:16], "overrides": [f"{k}={v}" for k, v in axes.items()],
        "git_commit": "0123456789abcdef0123456789abcdef01234567", "versions": {"python": "3.11.7", "torch": "2.11.0"},
        "data": {
            "name": config["data"]["name"], "digest": digest, "n_train": 8 * n_test, "n_val": n_test, "n_test": n_test,
            "labels": list(labels),
        },
        "model": {
            "name": config["model"]["name"], "revision": "abc", "parameters": 3_600_000_000,
            "trainable_parameters": 13_000_000,
        },
        "hardware": "NVIDIA H200", "world_size": 1, "started_at": "2026-01-31T12:00:00+00:00",
        "finished_at": "2026-01-31T12:20:00+00:00",
    }  # fmt: skip
    monitor = axes.get("monitor", "f1")
    if monitor != "f1":
        record["identity"] = {"trainer.max_epochs": 10, "trainer.monitor": monitor}
    write_json(directory / "run.json", record)
    f1 = quality if val_f1 is None else val_f1
    epochs = 10
    curve = [f1 * max(0.0, 1 - 0.5 ** (e + 1) * abs(e + 1 - (best_epoch or 1)) / 4) for e in range(epochs)]
    write_jsonl(
        directory / "history.jsonl",
        [
            {
                "epoch": e + 1, "train_loss": 2 * 0.6**e,
                "val": {"accuracy": v, "precision": v, "recall": v, "f1": v, axes.get("monitor", "f1"): v}
                | {"loss": 0.1 + 1.2 * 0.5**e + 0.01 * e},
                "lr": 5e-4, "seconds": seconds / 10, "tokens_per_second": 14000.0, "peak_memory_gib": 38.0,
            }
            for e, v in enumerate(curve)
        ],
    )  # fmt: skip
    if status == "running":
        return directory
    folder = directory / "predictions"
    if predictions is not None:
        folder.mkdir()
        os.link(predictions / "test.jsonl", folder / "test.jsonl")
        rows = read_jsonl(folder / "test.jsonl")
    else:
        rows = [] if test is not None else predict(quality, n_test, seed, labels, titles, texts)
        if rows:
            write_jsonl(folder / "test.jsonl", rows)
    metrics: dict[str, Any] = {
        "schema": 1, "status": status, "collapsed": f1 < COLLAPSED_BELOW, "best_epoch": best_epoch,
        "epochs_run": epochs,
        "val": {"loss": 0.2, "accuracy": f1, "precision": f1, "recall": f1, "f1": f1, "n": n_test},
        "test": {"loss": 0.2, "n": n_test}, "per_class": {},
        "seconds": {"total": seconds, "per_epoch": seconds / 10}, "tokens_per_second": 14000.0, "peak_memory_gib": 38.0,
    }  # fmt: skip
    if monitor != "f1":
        metrics["val"][monitor] = f1 if val_monitor is None else val_monitor
    index = {name: i for i, name in enumerate(labels)}
    if rows:
        true = np.array([index[row["label"]] for row in rows])
        confusion = confusion_matrix(true, np.array([index[row["prediction"]] for row in rows]), len(labels))
        total, columns = scores(confusion), per_class(confusion)
        metrics["test"] |= {k: getattr(total, k) for k in ("accuracy", "precision", "recall", "f1")}
        metrics["test"]["f1_ci95"] = list(ci95(confusion))
        if monitor in SCORES and monitor != "f1":
            metrics["test"][monitor] = float(SCORES[monitor](confusion))
            metrics["test"]["monitor_ci95"] = list(ci95(confusion, SCORES[monitor]))
        metrics["per_class"] = {
            name: {k: getattr(columns, k)[i].item() for k in ("precision", "recall", "f1", "support")}
            for i, name in enumerate(labels)
        }
    if test is not None:
        metrics["test"] |= test
        metrics["test"]["f1_ci95"] = [max(0.0, test["f1"] - 0.012), min(1.0, test["f1"] + 0.011)]
    if status == "diverged":
        metrics["test"] |= dict.fromkeys(("loss", "accuracy", "precision", "recall", "f1", "f1_ci95"))
        metrics["val"] |= dict.fromkeys(("loss", "accuracy", "precision", "recall", "f1"))
    write_json(directory / "metrics.json", metrics)
    return directory


def make_split(directory: Path, number: int, kind: str = "fold", **arguments: Any) -> Path:
    """A run on one of several splits, each with other test texts.

    Args:
        directory: The run directory.
        number: Of the split, from 0.
        kind: "fold", of three, or "split_seed".
        arguments: Those of ``make_run``.
    """
    split = {"folds": 3, "fold": number} if kind == "fold" else {"split_seed": 42 + number}
    run = make_run(directory, **split, **arguments)
    path = run / "predictions" / "test.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("-4000", f"-{4 + number}000"), encoding="utf-8")
    return run


def make_published(directory: Path, n_test: int = 736, with_predictions: bool = False) -> None:
    """The 160 published rows as run directories; with predictions, their test scores are near the published ones."""
    text = (files("llm_cls.assets") / "reference" / "published_results.csv").read_text(encoding="utf-8")
    linked: dict[int, Path] = {}
    for i, row in enumerate(csv.DictReader(text.splitlines())):
        test = {name: float(row[f"test_{name}"]) for name in ("accuracy", "precision", "recall", "f1")}
        kind = round(100 * test["accuracy"])
        batch_size = int(row["batch_size"])
        run = make_run(
            directory / f"{i:03}", quality=test["accuracy"], seed=42, n_test=n_test, val_f1=float(row["val_f1"]),
            test=None if with_predictions else test, predictions=linked.get(kind),
            best_epoch=int(row["best_epoch"]) if row["best_epoch"] else None,
            seconds=900 + 2200 * (32 / batch_size) ** 0.5 + i, model=row["model"], template=int(row["template"]),
            lr=float(row["lr"]), batch_size=batch_size, lora_r=int(row["lora_r"]),
        )  # fmt: skip
        if with_predictions:
            linked.setdefault(kind, run / "predictions")


def replace_json(path: Path, **changes: Any) -> None:
    """Changes top-level values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
