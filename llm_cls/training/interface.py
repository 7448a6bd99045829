"""The Python interface of a finished run, for notebooks and services."""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_cls.data.inputs import TextColumns
from llm_cls.errors import DataError
from llm_cls.training.loaded import LoadedRun, load_run, open_run, scoring_hardware
from llm_cls.training.streams import chunk_rows


@dataclass(frozen=True, slots=True)
class TextLabel:
    """What a run says about one text.

    Attributes:
        label: The most probable label.
        confidence: Its probability.
        probabilities: The probability of every label, in the order of ``Classifier.labels``.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]


class Classifier:
    """A finished run in memory. Threads may share it: their calls wait for one another.

    Attributes:
        labels: All labels, in the order of the run.
        columns: The columns that make a text, in the order of the template.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        """Takes a loaded run."""
        self._loaded, self._lock = loaded, threading.Lock()
        self._columns = TextColumns.of(loaded.opened.config, None, None, None, section="")
        self.labels = loaded.opened.labels
        self.columns = tuple(self._columns.names.values())

    def predict(self, texts: Sequence[str | Mapping[str, Any]], batch_size: int | None = None) -> list[TextLabel]:
        """The label of each text, with all probabilities.

        The numbers are those of ``python -m llm_cls.predict`` with the same texts and the same ``batch_size``. With
        others they may differ in the last digits.

        Args:
            texts: Each a string, where the template has one column; or a mapping with ``columns``, as a row of a table.
            batch_size: Texts per forward pass; None: 32 on a CPU, 128 on a GPU.

        Returns:
            As many as ``texts``, in their order.

        Raises:
            llm_cls.errors.DataError: There is nothing to label in a text; the message has its position.
            TypeError: ``texts`` is a single text.
            ValueError: ``batch_size`` is less than 1.
        """
        if isinstance(texts, str | Mapping):
            raise TypeError("texts must be a list of texts, got a single one. Try predict([text])")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        pieces, faults = self._columns.read([self._row(text, i) for i, text in enumerate(texts)])
        for i, fault in enumerate(faults):
            if fault:
                raise DataError(f"texts[{i}]: {fault}. Leave it out")
        batch_size = self._loaded.hardware.scoring_batch_size(batch_size)
        size = chunk_rows(batch_size)  # the batches of the command
        found: list[TextLabel] = []
        with self._lock:
            for first in range(0, len(pieces), size):
                some = np.exp(self._loaded.log_probabilities(pieces[first : first + size], batch_size))
                found += [self._label(p) for p in some.tolist()]
        return found

    def _label(self, probabilities: list[float]) -> TextLabel:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        return TextLabel(self.labels[best], probabilities[best], dict(zip(self.labels, probabilities, strict=True)))

    def _row(self, text: str | Mapping[str, Any], number: int) -> dict[str, Any]:
        names = " and ".join(map(repr, self.columns))
        if isinstance(text, str):
            if len(self.columns) > 1:
                raise DataError(f"texts[{number}] must be a mapping with {names}, got a string")
            return {self.columns[0]: text}
        if not isinstance(text, Mapping):
            raise DataError(f"texts[{number}] must be a string or a mapping, got a {type(text).__name__}")
        if missing := [name for name in self.columns if name not in text]:
            raise DataError(f"texts[{number}] must have {names}, but {missing[0]!r} is missing")
        return dict(text)


def load_classifier(
    run: str | os.PathLike[str], accelerator: str, trust_remote_code: bool, calibrated: bool
) -> Classifier:
    """See ``llm_cls.load``."""
    opened = open_run(Path(run), trust_remote_code, calibrated)
    return Classifier(load_run(opened, scoring_hardware(accelerator)))
