"""The rows of an input with the columns that a classifier adds."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_cls.data.rows import Row
from llm_cls.errors import DataError

_PREFIX = "predicted_"


class AddedColumns:
    """The columns ``label``, ``confidence``, those of the next best labels, the set, the probabilities, and ``error``.

    They follow those of the input. A name that the input has already gets the prefix ``predicted_``, as often as
    needed.

    Attributes:
        types: The names, each with the type of its values.
    """

    def __init__(
        self,
        labels: Sequence[str],
        top_k: int,
        probabilities: bool,
        nested: bool,
        taken: Collection[str],
        sets: bool = False,
    ) -> None:
        """Chooses the names.

        Args:
            labels: All labels, in the order of the probabilities.
            top_k: Labels per text.
            probabilities: Whether there is the probability of every label.
            nested: Whether these are one mapping, ``probabilities``, instead of a column ``p(label)`` each.
            taken: The columns of the input.
            sets: Whether there is a set of labels.
        """
        self._labels, self._taken, self._top_k, self._nested = labels, set(taken), top_k, nested
        types: dict[str, type | None] = {"label": str, "confidence": float}
        for k in range(2, top_k + 1):
            types |= {f"label_{k}": str, f"confidence_{k}": float}
        if sets:
            types["label_set"] = list
        if probabilities:
            types |= {"probabilities": None} if nested else {f"p({label})": float for label in labels}
        self._has_probabilities = probabilities
        self.types = {_free(name, self._taken): kind for name, kind in (types | {"error": str}).items()}

    def rows(
        self,
        rows: Sequence[Row],
        faults: Sequence[str],
        log_probabilities: npt.NDArray[np.float64],
        decided: Sequence[str] | None = None,
        sets: Sequence[Sequence[str]] | None = None,
    ) -> Iterator[Row]:
        """The rows with the added columns.

        Args:
            rows: Rows of the input.
            faults: For each row why it has no text, "" where it has one.
            log_probabilities: Shape ``(n, n_labels)`` for the n rows that have one.
            decided: The label of each of these n rows; by default the most probable one.
            sets: The set of labels of each of them, where there is such a column.

        Raises:
            DataError: A row has a column of the name of an added one, which the first rows did not have.
        """
        best = np.argsort(-log_probabilities, axis=1, kind="stable")[:, : self._top_k].tolist()
        names = [self._labels[order[0]] for order in best] if decided is None else decided
        index = {label: i for i, label in enumerate(self._labels)}
        found = [None] * len(best) if sets is None else sets
        texts = iter(zip(best, np.exp(log_probabilities).tolist(), names, found, strict=True))
        added = self.types.keys()
        for row, fault in zip(rows, faults, strict=True):
            if not row.keys() <= self._taken and (late := added & row.keys()):
                raise DataError(
                    f"The column {min(late)!r} occurs in some rows only, and the output has one of that name. Rename it"
                )
            values: list[Any] = [None] * (len(self.types) - 1)
            if not fault:
                order, p, name, label_set = next(texts)
                values = [value for i in order for value in (self._labels[i], p[i])]
                values[0] = name
                if name in index:  # otherwise the classifier abstains, and the confidence says why
                    values[1] = p[index[name]]
                if label_set is not None:
                    values.append(list(label_set))
                if self._has_probabilities:
                    values += [dict(zip(self._labels, p, strict=True))] if self._nested else p
            yield row | dict(zip(self.types, [*values, fault or None], strict=True))


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = _PREFIX + name
    return name
