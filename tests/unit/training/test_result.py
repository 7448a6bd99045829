"""What the predictions of a run hold of its texts."""

from dataclasses import replace

import numpy as np
import pytest

from llm_cls.data.corpus import Corpus, Text
from llm_cls.metrics.evaluation import evaluate
from llm_cls.training.result import prediction_lines

EVALUATION = evaluate(np.array([[1, 0], [0, 2]], np.float32), np.array([0, 0]))
TEXTS = [Text("1", "a", "題", "文" * 3000), Text("2", "a", "", "", (("premise", "犬"), ("hypothesis", "猫")))]
NEWS = Corpus("livedoor", ("a", "b"), {"val": TEXTS}, "d", has_titles=True)


@pytest.mark.parametrize("keep_texts", [True, False])
def test_texts_of_others_are_never_copied(keep_texts: bool) -> None:
    lines = [line.model_dump(exclude_unset=True) for line in prediction_lines(EVALUATION, NEWS, "val", keep_texts)]
    assert [line["title"] for line in lines] == ["題", ""] and not any("columns" in line for line in lines)


def test_own_texts_are_kept_unless_they_are_private() -> None:
    own = replace(NEWS, own_columns={"title": "headline", "body": "content"})
    lines = [line.columns for line in prediction_lines(EVALUATION, own, "val")]
    assert lines[0] == {"headline": "題", "content": "文" * 2000 + "…"}
    assert lines[1] == {"headline": "", "content": "", "premise": "犬", "hypothesis": "猫"}
    pairs = replace(NEWS, own_columns={}, has_titles=False)
    assert [line.columns for line in prediction_lines(EVALUATION, pairs, "val")][1] == {
        "premise": "犬",
        "hypothesis": "猫",
    }
    for line in prediction_lines(EVALUATION, own, "val", keep_texts=False):
        assert line.model_dump(exclude_unset=True).keys() == {"id", "label", "prediction", "probabilities"}
