"""The test predictions of a run."""

from dataclasses import dataclass

import numpy as np

from llm_cls.errors import ArtifactError
from llm_cls.files import sha256_json
from llm_cls.metrics.scores import Floats
from llm_cls.metrics.statistics import Ints
from llm_cls.reporting.runs import Run
from llm_cls.runs.directory import RunDirectory


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


def read_test_predictions(run: Run) -> Predictions:
    """``predictions/test.jsonl`` of a scored run.

    Raises:
        ValueError: The file is missing or damaged.
    """
    assert run.record is not None
    names = tuple(run.record.data.labels)
    index = {name: i for i, name in enumerate(names)}
    try:
        lines = RunDirectory(run.path).read_predictions("test")
    except ArtifactError as error:
        raise ValueError(str(error)) from None
    if len(lines) != run.record.data.n_test:
        raise ValueError(f"{len(lines)} lines, expected {run.record.data.n_test}")
    try:
        labels = [index[line.label] for line in lines]
        predictions = [index[line.prediction or ""] for line in lines]
        probabilities = np.array([[line.probabilities[name] for name in names] for line in lines], dtype=np.float64)
    except KeyError as error:
        raise ValueError(f"a line is not as expected: the label {error} is unknown or missing") from None
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all() and (probabilities <= 1).all()):
        raise ValueError("probabilities must be between 0 and 1")
    return Predictions(
        ids=tuple(line.id for line in lines),
        titles=tuple(line.title or "" for line in lines),
        labels=np.array(labels, dtype=np.int64),
        predictions=np.array(predictions, dtype=np.int64),
        probabilities=probabilities,
        names=names,
        digest=sha256_json([[line.id, label] for line, label in zip(lines, labels, strict=True)]),
    )
