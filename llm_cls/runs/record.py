"""What a run writes about itself: identity, ``run.json``, predictions, ``metrics.json``."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llm_cls.config.schema import Config, PrunerConfig
from llm_cls.data.corpus import Corpus, Text
from llm_cls.data.tokenizer import Tokenizer
from llm_cls.errors import ArtifactError, OtherRunError
from llm_cls.files import sha256_json, write_jsonl
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.metrics.scores import per_class
from llm_cls.metrics.statistics import f1_ci95
from llm_cls.runs.schema import read_object, read_run_files
from llm_cls.training.callbacks import LAST, checkpoint_run_id

SCHEMA = 1
_OTHER = "Give another hydra.run.dir, or in a sweep another sweep.name"
_PACKAGES = ("llm_cls", "torch", "lightning", "transformers", "peft", "tokenizers", "sentencepiece", "numpy")


def identity(config: Config, corpus: Corpus, tokenizer: Tokenizer, revision: str, precision: str) -> dict[str, Any]:
    """Everything that can change the result of a run, and nothing else.

    Paths, loggers, the number of devices and the micro batch are left out: they may change between two
    calls for one and the same result. A folder stands here by the digest of its content.
    """
    data, model = config.data, config.model
    return {
        "data.digest": corpus.digest,
        "data.split": {split: len(texts) for split, texts in corpus.splits.items()},
        "data.split_seed": data.split_seed,
        "data.fold": None if data.folds is None else [data.fold, data.folds],
        "data.max_length": data.max_length,
        "data.truncation": data.truncation,
        "data.batch_size": data.batch_size,
        "template.text": config.template.text,
        "model.revision": revision,
        "model.name": None if revision.startswith("sha256:") else model.name,
        "model.architecture": model.architecture if model.weights == "random" else None,
        "model.weights": model.weights,
        "model.pooling": model.pooling,
        "model.tokenizer": [tokenizer.fingerprint, tokenizer.bos_id, tokenizer.eos_id],
        "lora": config.lora.model_dump() if config.lora.enabled else {"enabled": False, "full": config.lora.full},
        "optimizer": config.optimizer.model_dump(mode="json"),
        "seed": config.seed,
        "trainer.max_epochs": config.trainer.max_epochs,
        "trainer.early_stopping_patience": config.trainer.early_stopping_patience,
        "trainer.precision": precision,
        "engine.name": config.engine.name,
        "pruner": config.pruner.model_dump() if config.pruner != PrunerConfig() else None,
    }


def run_id(parts: dict[str, Any]) -> str:
    """A short hash of ``identity``."""
    return sha256_json(parts)[:16]


def check_same_run(directory: Path, parts: dict[str, Any]) -> dict[str, Any] | None:
    """The ``run.json`` that is already in ``directory``, if it is of the same run; None if there is none.

    Raises:
        OtherRunError: The directory belongs to a run of another configuration; the message names the keys.
        ArtifactError: A file of the run is damaged; nothing may be written over it.
    """
    record = read_run_files(directory).record
    path = directory / "run.json"
    if record is None:
        last = directory / "checkpoints" / LAST
        if checkpoint_run_id(last) not in (None, run_id(parts)):
            raise OtherRunError(f"{last} is of another configuration, and {path} is missing. {_OTHER}")
        return None
    if record.identity is None:
        raise ArtifactError(f"{path} is damaged: identity is missing. Remove {directory} and start again")
    found = read_object(path)
    before: dict[str, Any] = found["identity"]
    after = json.loads(json.dumps(parts))
    differing = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if differing:
        shown = "; ".join(f"{key}: there {before.get(key)}, here {after.get(key)}" for key in differing)
        raise OtherRunError(f"{directory} holds a run of another configuration ({shown}). {_OTHER}")
    return found


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe_run(
    config: Config, corpus: Corpus, parts: dict[str, Any], overrides: Sequence[str], hardware: str, world_size: int
) -> dict[str, Any]:
    """The content of ``run.json`` as far as it is known before the network is built."""
    return {
        "schema": SCHEMA,
        "run_id": run_id(parts),
        "identity": parts,
        "overrides": list(overrides),
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
        "data": {
            "name": corpus.name,
            "digest": corpus.digest,
            **{f"n_{split}": len(texts) for split, texts in corpus.splits.items()},
            "labels": list(corpus.labels),
            "warnings": list(corpus.warnings),
        },
        "model": {"name": config.model.name, "revision": parts["model.revision"]},
        "hardware": hardware,
        "world_size": world_size,
        "started_at": now(),
        "finished_at": None,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git_commit() -> str | None:
    """The commit of the code that runs, with "-dirty" where it was changed; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def forget_unless_begun(directory: Path) -> None:
    """Removes what a run that failed in its first epoch has written.

    There is nothing to go on with, and the corrected command is another run, which was refused the directory.
    """
    checkpoints = directory / "checkpoints"
    if (checkpoints / LAST).exists() or (directory / "history.jsonl").exists():
        return
    for path in (directory / "config.yaml", directory / "run.json", *checkpoints.glob("best-*.safetensors")):
        path.unlink(missing_ok=True)
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        checkpoints.rmdir()


def remove_leftovers(directory: Path, finished: bool = False) -> None:
    """Removes what a process was writing when it was killed; of a run that is ``finished`` also what resumes it."""
    checkpoints = directory / "checkpoints"
    left = [path for folder in (directory, checkpoints, directory / "predictions") for path in folder.glob(".*.tmp")]
    if finished:
        left += checkpoints.glob("*")
    for path in left:
        with suppress(OSError):  # another process does the same, or the folder can only be read
            path.unlink()


def write_predictions(path: Path, evaluation: Evaluation, texts: Sequence[Text], corpus: Corpus) -> None:
    """A line per text: ``id, label, prediction, probabilities`` and, where the corpus has one, ``title``."""
    names = corpus.labels

    def rows() -> Any:
        for text, p, best in zip(texts, evaluation.probabilities, evaluation.predictions, strict=True):
            row: dict[str, Any] = {
                "id": text.id,
                "label": text.label,
                "prediction": names[best] if evaluation.finite else None,
                "probabilities": {name: float(x) for name, x in zip(names, p, strict=True)},
            }
            yield row | {"title": text.title} if corpus.has_titles else row

    write_jsonl(path, rows())


def summarize(
    status: str, best_epoch: int | None, history: Sequence[dict[str, Any]], total_seconds: float,
    val: Evaluation, test: Evaluation, labels: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """The content of ``metrics.json``; scores that are not numbers are null there."""
    per_label: dict[str, Any] = dict.fromkeys(labels)
    interval: list[float] | None = None
    if test.confusion is not None:
        columns = per_class(test.confusion)
        per_label = {
            label: {
                "precision": float(columns.precision[i]),
                "recall": float(columns.recall[i]),
                "f1": float(columns.f1[i]),
                "support": int(columns.support[i]),
            }
            for i, label in enumerate(labels)
        }
        interval = list(f1_ci95(test.confusion))
    seconds = [row["seconds"] for row in history]
    return {
        "schema": SCHEMA,
        "status": status,
        "collapsed": val.collapsed,
        "best_epoch": best_epoch,
        "epochs_run": len(history),
        "val": val.figures() | {"n": len(val.labels)},
        "test": test.figures() | {"n": len(test.labels), "f1_ci95": interval},
        "per_class": per_label,
        "seconds": {"total": total_seconds, "per_epoch": sum(seconds) / len(seconds)},
        "tokens_per_second": sum(row["tokens_per_second"] for row in history) / len(history),
        "peak_memory_gib": max(row["peak_memory_gib"] for row in history),
    }
