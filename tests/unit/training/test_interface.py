"""What ``llm_cls.load`` reads as a text."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llm_cls.config.compose import accept_plain_values, compose_tree
from llm_cls.config.schema import TrainerConfig, parse_config
from llm_cls.errors import DataError
from llm_cls.training.devices import resolve_hardware
from llm_cls.training.interface import Classifier

accept_plain_values()


class Loaded:
    """A run that notes its texts; their numbers are the probabilities of its two labels."""

    def __init__(self, *overrides: str) -> None:
        config = parse_config(compose_tree(["data=table", "data.file=x.csv", "data.label=label", *overrides]))
        self.opened = SimpleNamespace(config=config, labels=("a", "b"))
        self.hardware = resolve_hardware(TrainerConfig(accelerator="cpu"))
        self.calls: list[list[tuple[str, ...]]] = []

    def log_probabilities(self, pieces: Sequence[tuple[str, ...]], batch_size: int) -> Any:
        self.calls.append(list(pieces))
        p = np.array([float("".join(parts)) for parts in pieces])
        return np.log(np.stack([p, 1 - p], axis=1))


def test_strings_are_the_text_of_a_run_without_titles() -> None:
    loaded: Any = Loaded("data.text=本文")
    classifier = Classifier(loaded)
    assert classifier.columns == ("本文",)
    found = classifier.predict(["0.25", {"本文": 0.75, "other": 1}, "0.5"], batch_size=1)
    assert [x.label for x in found] == ["b", "a", "a"], "the first of equal ones"
    assert [x.confidence for x in found] == pytest.approx([0.75, 0.75, 0.5])
    assert found[0].probabilities == pytest.approx({"a": 0.25, "b": 0.75})
    with pytest.raises(DataError, match=r"texts\[1\] must have '本文', but '本文' is missing"):
        classifier.predict(["0.5", {"text": "0.5"}])


def test_the_texts_are_cut_into_the_chunks_of_the_command() -> None:
    loaded: Any = Loaded("data.text=text")
    Classifier(loaded).predict(["0.5"] * 40, batch_size=1)
    Classifier(loaded).predict(["0.5"] * 600)
    assert [len(call) for call in loaded.calls] == [16, 16, 8, 512, 88], "32 texts at a time on a CPU"
