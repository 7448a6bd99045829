"""The predictions of a split as arrays, checked against one another and against the scores."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from llm_cls.errors import ArtifactError, first_line
from llm_cls.files import sha256_json
from llm_cls.metrics.scores import METRICS, SCORES, confusion_matrix, per_class, scores
from llm_cls.runs import layout
from llm_cls.runs.content import read_bytes
from llm_cls.runs.schema import LabelScores, Metrics, RunRecord, ValScores

_FIX = "Restore it, or train the run again"
_TOLERANCE = 1e-9  # scores are stored with all their digits


@dataclass(frozen=True)
class Predictions:
    """A split as a run saw it.

    Attributes:
        ids: Of the texts.
        titles: Of the texts; empty strings where the corpus has none.
        columns: The input columns of each text by their names, where the file has them; otherwise empty.
        labels: Class indices, shape ``(n,)``.
        predictions: Class indices, shape ``(n,)``.
        probabilities: Shape ``(n, n_labels)``.
        names: All labels; a class index is a position here.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    columns: tuple[Mapping[str, str], ...]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Equal for equal texts with equal labels in the same order."""
        labels = [self.names[label] for label in self.labels]
        return sha256_json([list(pair) for pair in zip(self.ids, labels, strict=True)])

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts, shape ``(n_labels, n_labels)``, rows true, columns predicted."""
        return confusion_matrix(self.labels, self.predictions, len(self.names))


def read_predictions(directory: Path, split: str, names: Sequence[str]) -> Predictions:
    """``predictions/<split>.jsonl`` of a run with finite scores.

    Raises:
        ArtifactError: The file is missing or damaged, or a prediction is not the most probable label.
    """
    path = directory / layout.PREDICTIONS / f"{split}.jsonl"
    rows = _read_rows(path)
    index = {name: i for i, name in enumerate(names)}
    of_all_labels = operator.itemgetter(*names) if len(names) > 1 else lambda found: (found[names[0]],)
    try:
        ids, titles = tuple(row["id"] for row in rows), tuple(row.get("title") or "" for row in rows)
        columns = tuple(row.get("columns") or {} for row in rows)
        labels = np.array([index[row["label"]] for row in rows], dtype=np.int64)
        predictions = np.array([index[row["prediction"]] for row in rows], dtype=np.int64)
        probabilities = np.array([of_all_labels(row["probabilities"]) for row in rows])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        fault = f"{error} is unknown or missing" if isinstance(error, KeyError) else first_line(error)
        raise ArtifactError(f"{path} is damaged: {fault}. {_FIX}") from None
    if not all(isinstance(text, str) for text in (*ids, *titles)):
        raise ArtifactError(f"{path} is damaged: id and title must be strings. {_FIX}")
    if not all(isinstance(found, dict) and all(isinstance(text, str) for text in found.values()) for found in columns):
        raise ArtifactError(f"{path} is damaged: columns must be strings by the names of their columns. {_FIX}")
    if len(set(ids)) < len(ids):
        raise ArtifactError(f"{path} is damaged: an id occurs twice. {_FIX}")
    if probabilities.dtype.kind not in "fi" or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ArtifactError(f"{path} is damaged: probabilities must be between 0 and 1. {_FIX}")
    other = probabilities.max(axis=1) > probabilities[np.arange(len(rows)), predictions]
    if other.any():
        line = int(other.argmax()) + 1
        raise ArtifactError(f"{path}, line {line}, is damaged: the prediction is not the most probable label. {_FIX}")
    return Predictions(ids, titles, columns, labels, predictions, probabilities.astype(np.float64), tuple(names))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines as JSON objects, without the checks of ``Prediction``, which take three times as long."""
    rows = []
    for number, line in enumerate((read_bytes(path, _FIX) or b"").split(b"\n"), start=1):
        if line.strip():
            try:
                rows.append(from_json(line))
            except ValueError as error:
                raise ArtifactError(f"{path}, line {number}, is damaged: {error}. {_FIX}") from None
    if not rows:
        raise ArtifactError(f"{path} is missing or empty. {_FIX}")
    return rows


def check_scores(directory: Path, split: str, record: RunRecord, metrics: Metrics) -> None:
    """Compares the scores of a split in the result with those of the run's predictions.

    Raises:
        ArtifactError: They differ, or the predictions are missing or damaged.
    """
    stated: ValScores | None = metrics.test if split == "test" else metrics.val
    if stated is None or stated.f1 is None:
        return  # there is no such split, or the logits were not finite
    if record.schema_version < 3 and not (directory / layout.PREDICTIONS / f"{split}.jsonl").exists():
        return  # nothing says that the file must exist
    found = read_predictions(directory, split, record.data.labels)
    computed = scores(found.confusion)
    differing = {
        f"{split}.{name}": (getattr(stated, name), getattr(computed, name))
        for name in METRICS
        if abs(getattr(stated, name) - getattr(computed, name)) > _TOLERANCE
    }
    for name in SCORES.keys() - METRICS:
        value, expected = stated.value(name), float(SCORES[name](found.confusion))
        if value is not None and abs(value - expected) > _TOLERANCE:
            differing[f"{split}.{name}"] = (value, expected)
    if stated.n != len(found.ids):
        differing[f"{split}.n"] = (stated.n, len(found.ids))
    if split == "test":
        differing |= _differing_labels(found, metrics)
    for key, (value, expected) in differing.items():
        raise ArtifactError(
            f"{directory / layout.METRICS} states {key} {value:.6g}, but the predictions in "
            f"{layout.PREDICTIONS}/{split}.jsonl give {expected:.6g}. Restore both, or train the run again"
        )


def _differing_labels(found: Predictions, metrics: Metrics) -> dict[str, tuple[float, float]]:
    columns = per_class(found.confusion)
    differing: dict[str, tuple[float, float]] = {}
    for i, name in enumerate(found.names):
        stated = metrics.per_class.get(name)
        if stated is None:
            continue
        for key in LabelScores.model_fields:
            value, computed = getattr(stated, key), float(getattr(columns, key)[i])
            if abs(value - computed) > _TOLERANCE:
                differing[f"per_class.{name}.{key}"] = (value, computed)
    return differing
