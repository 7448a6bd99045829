"""What is certified, and what is refused."""

import numpy as np
import pytest

from llm_cls.config.exporting import ExportArguments
from llm_cls.errors import ArtifactError
from llm_cls.exporting.parity import Comparison, IdsFound, Parity, compare

GOOD = Comparison(
    software="transformers", input="ids", texts=4, largest_difference=9e-6, mean_difference=9e-7, changed_decisions=0
)


def parity(**changes: object) -> Parity:
    values = {
        "schema_version": 1, "run_id": "r", "format": "merged", "dtype": "float32", "largest_allowed": 1e-5,
        "mean_allowed": 1e-6, "labels": ["a", "b"], "label_order_equal": True, "pad_token": "<pad>",
        "ids": IdsFound(texts=9, equal=8, ties=1, cut=2), "comparisons": [GOOD], "versions": {},
    }  # fmt: skip
    return Parity.model_validate(values | changes)


def test_figures_are_those_of_numpy() -> None:
    expected = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    found = np.array([[0.4, 0.6], [0.9, 0.1], [0.2, 0.8]])
    comparison = compare("x", "ids", found, expected)
    assert (comparison.texts, comparison.changed_decisions, comparison.certified) == (3, 1, True)
    assert comparison.largest_difference == pytest.approx(0.1)
    assert comparison.mean_difference == pytest.approx(0.2 / 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_order_equal": False}, "labels are in another order"),
        ({"ids": IdsFound(texts=9, equal=7, ties=1, cut=0)}, "gives other ids for 1 of 9 texts"),
        ({"largest_difference": 1.1e-5}, r"from ids: a probability differs by 1\.1e-05, allowed is 1e-05 \(float32\)"),
        ({"mean_difference": 2e-6}, "the mean probability differs by 2.0e-06"),
    ],
)
def test_what_differs_is_refused(changes: dict[str, object], message: str) -> None:
    parity().check()
    own = {key: value for key, value in changes.items() if key in Comparison.model_fields}
    changed = parity(comparisons=[GOOD, GOOD.model_copy(update=own)]) if own else parity(**changes)
    with pytest.raises(ArtifactError, match=message):
        changed.check()


def test_strings_with_other_ids_are_reported_alone() -> None:
    parity(comparisons=[GOOD.model_copy(update={"largest_difference": 0.2, "certified": False})]).check()


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ArtifactError):
        parity(comparisons=[GOOD.model_construct(**GOOD.model_dump() | {"largest_difference": float("nan")})]).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "dtype must be float32 or bf16 with format=merged, got int8"),
        ({"format": "onnx", "dtype": "bf16"}, "dtype must be float32 or int8 with format=onnx"),
        ({"format": "peft", "vllm": "python"}, "vllm is for format=merged"),
        ({"push": "name"}, "must be ORG/NAME"),
        ({"push": "../name"}, "must be ORG/NAME"),
    ],
)
def test_arguments_that_contradict_one_another_are_refused(changes: dict[str, str], message: str) -> None:
    ExportArguments.model_validate({"run": "r", "output": "o", "push": "org/name"})
    with pytest.raises(ValueError, match=message):
        ExportArguments.model_validate({"run": "r", "output": "o"} | changes)
