"""The progress bar is for terminals."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from llm_cls.config.compose import compose_tree
from llm_cls.config.schema import parse_config
from llm_cls.metrics.selection import MONITORS
from llm_cls.training import trainer as module
from llm_cls.training.devices import resolve_hardware
from llm_cls.training.progress import ProgressBar


@pytest.mark.parametrize(("terminal", "wanted", "shown"), [(True, True, 1), (True, False, 0), (False, True, 0)])
def test_there_is_one_on_a_terminal_only(
    terminal: bool, wanted: bool, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(compose_tree(["trainer=cpu"]))
    inputs: Any = SimpleNamespace(config=config, hardware=resolve_hardware(config.trainer))
    recorder: Any = SimpleNamespace(monitor=MONITORS["f1"])
    given: dict[str, Any] = {}
    monkeypatch.setattr(module, "Trainer", lambda **keys: given.update(keys))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    others: Any = SimpleNamespace(path=None, lightning=None)
    module.build_trainer(inputs, others, recorder, others, others, wanted)
    assert sum(isinstance(callback, ProgressBar) for callback in given["callbacks"]) == shown
    assert given["enable_progress_bar"] is bool(shown)
