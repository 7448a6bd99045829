"""What a run said of each text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_cls.files import read_jsonl, sha256_json
from llm_cls.metrics.scores import Floats
from llm_cls.metrics.statistics import Ints
from llm_cls.reporting.runs import Run


@dataclass(frozen=True)
class Predictions:
    """The test split as a run saw it.

    Attributes:
        ids: Of the texts.
        titles: Of the texts; empty strings where the corpus has none.
        labels: Class indices, shape ``(n,)``.
        predictions: Class indices, shape ``(n,)``.
        probabilities: Shape ``(n, n_labels)``.
        names: All labels; a class index is a position here.
        digest: Equal for equal texts with equal labels in the same order.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    labels: Ints
    predictions: Ints
    probabilities: Floats
    names: tuple[str, ...]
    digest: str


def _read(path: Path, names: tuple[str, ...], n_texts: int) -> Predictions:
    index = {name: i for i, name in enumerate(names)}
    rows: list[dict[str, Any]] = read_jsonl(path)
    try:
        labels = [index[row["label"]] for row in rows]
        probabilities = np.array([[row["probabilities"][name] for name in names] for row in rows], dtype=np.float64)
        result = Predictions(
            ids=tuple(str(row["id"]) for row in rows),
            titles=tuple(str(row.get("title") or "") for row in rows),
            labels=np.array(labels, dtype=np.int64),
            predictions=np.array([index[row["prediction"]] for row in rows], dtype=np.int64),
            probabilities=probabilities,
            names=names,
            digest=sha256_json([[str(row["id"]), label] for row, label in zip(rows, labels, strict=True)]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a line is not as expected: {error!r}") from None
    if len(rows) != n_texts:
        raise ValueError(f"{len(rows)} lines, expected {n_texts}")
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all() and (probabilities <= 1).all()):
        raise ValueError("probabilities must be between 0 and 1")
    return result


def read_test_predictions(run: Run) -> Predictions:
    """``predictions/test.jsonl`` of a scored run.

    Raises:
        ValueError: The file is not as it must be.
        OSError: It can't be read.
    """
    assert run.record is not None
    path = run.path / "predictions" / "test.jsonl"
    try:
        return _read(path, tuple(run.record.data.labels), run.record.data.n_test)
    except json.JSONDecodeError as error:
        raise ValueError(f"a line is not JSON: {error}") from None
