"""Synthetic runs with predictions of val and test, and a model folder, as ``calibrate`` needs them."""

from pathlib import Path

import numpy as np

from llm_cls.files import write_json, write_jsonl
from llm_cls.metrics.scores import confusion_matrix, per_class, scores
from llm_cls.metrics.statistics import ci95
from llm_cls.runs.manifest import write_model_manifest
from tests.unit.reporting.run_directories import make_run, replace_json

NAMES = ("a", "b", "c", "d")


def draw(
    n: int, temperature: float, seed: int, n_labels: int = 4, spread: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are overconfident by ``temperature``, and labels drawn from the true ones."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.standard_normal((n, n_labels))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, n_labels - 1)
    sharp = np.exp(temperature * (logits - logits.max(axis=1, keepdims=True)))
    return sharp / sharp.sum(axis=1, keepdims=True), labels


def calibrated_run(
    directory: Path, splits: dict[str, tuple[np.ndarray, np.ndarray]], names: tuple[str, ...] = NAMES
) -> Path:
    """A finished run with these probabilities and labels of val and test."""
    make_run(directory, labels=names, n_test=len(splits.get("test", splits["val"])[1]))
    metrics = {}
    for split, (p, labels) in splits.items():
        predictions = p.argmax(axis=1)
        write_jsonl(
            directory / "predictions" / f"{split}.jsonl",
            [
                {
                    "id": f"{split}-{i}", "label": names[labels[i]], "prediction": names[predictions[i]],
                    "probabilities": dict(zip(names, p[i].tolist(), strict=True)),
                }
                for i in range(len(labels))
            ],
        )  # fmt: skip
        confusion = confusion_matrix(labels, predictions, len(names))
        total = scores(confusion)
        metrics[split] = {k: getattr(total, k) for k in ("accuracy", "precision", "recall", "f1")}
        metrics[split] |= {"loss": 0.2, "n": len(labels)}
        if split == "test":
            columns = per_class(confusion)
            metrics["test"]["f1_ci95"] = list(ci95(confusion))
            metrics["per_class"] = {
                name: {k: getattr(columns, k)[i].item() for k in ("precision", "recall", "f1", "support")}
                for i, name in enumerate(names)
            }
    replace_json(directory / "metrics.json", **metrics)
    (directory / "model").mkdir()
    (directory / "model" / "head.safetensors").write_bytes(b"head")
    write_json(directory / "model" / "labels.json", list(names))
    write_model_manifest(directory / "model")
    return directory
