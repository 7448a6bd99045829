"""The columns that a classifier adds to a table."""

import numpy as np
import pytest

from llm_cls.data.added_columns import AddedColumns
from llm_cls.errors import DataError

LABELS = ("a", "b", "c")
P = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])


def test_label_and_confidence() -> None:
    added = AddedColumns(LABELS, 1, False, False, ["text"])
    found = list(added.rows([{"text": i} for i in range(3)], ["", "no text", ""], np.log(P)))
    assert [list(row) for row in found] == [["text", "label", "confidence", "error"]] * 3
    assert [(row["text"], row["label"], row["error"]) for row in found] == [
        (0, "b", None), (1, None, "no text"), (2, "a", None),
    ]  # fmt: skip
    assert [row["confidence"] for row in found if row["confidence"]] == pytest.approx([0.5, 0.4])


def test_ranks_are_those_of_a_stable_sort() -> None:
    (_, row) = AddedColumns(LABELS, 3, False, False, []).rows([{}, {}], ["", ""], np.log(P))
    assert [row["label"], row["label_2"], row["label_3"]] == ["a", "c", "b"]
    assert [row["confidence"], row["confidence_2"], row["confidence_3"]] == pytest.approx([0.4, 0.4, 0.2])


def test_a_set_may_be_empty() -> None:
    added = AddedColumns(LABELS, 2, True, True, [], sets=True)
    rows = list(added.rows([{}, {}, {}], ["", "x", ""], np.log(P), sets=[["b", "c"], []]))
    names = ["label", "confidence", "label_2", "confidence_2", "label_set", "probabilities", "error"]
    assert [list(row) for row in rows] == [names] * 3
    assert [row["label_set"] for row in rows] == [["b", "c"], None, []]
    assert [row["error"] for row in rows] == [None, "x", None] and rows[2]["probabilities"]["a"] == pytest.approx(0.4)


@pytest.mark.parametrize("nested", [False, True])
def test_all_probabilities(nested: bool) -> None:
    added = AddedColumns(LABELS, 1, True, nested, [])
    rows = list(added.rows([{}, {}, {}], ["", "", "x"], np.log(P)))
    for row, p in zip(rows, P, strict=False):
        found = row["probabilities"] if nested else {label: row[f"p({label})"] for label in LABELS}
        assert found == pytest.approx(dict(zip(LABELS, p, strict=True)))
    names = ["probabilities"] if nested else ["p(a)", "p(b)", "p(c)"]
    assert list(added.types) == list(rows[2]) == ["label", "confidence", *names, "error"]
    assert all(rows[2][name] is None for name in names)


def test_taken_names_get_a_prefix_as_often_as_needed() -> None:
    taken = ["label", "predicted_label", "error", "p(a)"]
    added = AddedColumns(LABELS, 1, True, False, taken)
    assert list(added.types) == [
        "predicted_predicted_label", "confidence", "predicted_p(a)", "p(b)", "p(c)", "predicted_error",
    ]  # fmt: skip
    row = dict.fromkeys(taken, "given")
    assert next(added.rows([row], [""], np.log(P[:1])))["label"] == "given"


def test_a_column_that_comes_later_may_not_have_the_name_of_an_added_one() -> None:
    added = AddedColumns(LABELS, 1, False, False, ["text"])
    assert next(added.rows([{"other": 1}], ["x"], np.zeros((0, 3))))["other"] == 1
    with pytest.raises(DataError, match="The column 'confidence' occurs in some rows only, and the output has one"):
        list(added.rows([{"text": 1, "confidence": 2}], ["x"], np.zeros((0, 3))))
