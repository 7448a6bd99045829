"""The progress bar is for terminals."""

import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from llm_cls.config.compose import compose_tree
from llm_cls.config.schema import parse_config
from llm_cls.metrics.selection import MONITORS
from llm_cls.training import trainer as module
from llm_cls.training.devices import resolve_hardware
from llm_cls.training.module import ClassifierModule
from llm_cls.training.progress import ProgressBar


@pytest.mark.parametrize(
    ("terminal", "wanted", "shown"),
    [(True, True, 1), (True, False, 0), (False, True, 0), (None, True, 0)],
)
def test_there_is_one_on_a_terminal_only(
    terminal: bool | None, wanted: bool, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(compose_tree(["trainer=cpu"]))
    inputs: Any = SimpleNamespace(config=config, hardware=resolve_hardware(config.trainer))
    recorder: Any = SimpleNamespace(monitor=MONITORS["f1"])
    given: dict[str, Any] = {}
    monkeypatch.setattr(module, "Trainer", lambda **keys: given.update(keys))
    monkeypatch.setattr(sys, "stdout", None if terminal is None else SimpleNamespace(isatty=lambda: terminal))
    others: Any = SimpleNamespace(path=None, lightning=None)
    module.build_trainer(inputs, others, recorder, others, others, wanted)
    assert sum(isinstance(callback, ProgressBar) for callback in given["callbacks"]) == shown
    assert given["enable_progress_bar"] is bool(shown)


def test_it_reads_the_loss_of_every_tenth_step() -> None:
    loop = SimpleNamespace(batch_idx=0, epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=False)))
    trainer: Any = SimpleNamespace(training=True, fit_loop=loop, loggers=[], progress_bar_metrics={"val/f1": 0.5})
    classifier: Any = ClassifierModule(nn.Identity(), Mock(), Mock())  # type: ignore[arg-type]
    bar = ProgressBar()
    assert bar.get_metrics(trainer, classifier) == {"val/f1": 0.5}, "nothing is trained yet"
    shown = []
    for loop.batch_idx in range(23):
        loop.epoch_loop.batch_progress.is_last_batch = loop.batch_idx == 22
        classifier.latest_loss = torch.tensor(float(loop.batch_idx))
        shown.append(bar.get_metrics(trainer, classifier)["loss"])
    assert shown == [0.0] * 10 + [10.0] * 10 + [20.0, 20.0, 22.0], "and of the last one"
