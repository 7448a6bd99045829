"""The published results, for comparison with runs of the same recipe."""

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from llm_cls.reporting.settings import AXES, Setting, as_number

SOURCE = "Hayato Tsukagoshi, “Text Classification with LLMs and LoRA”, 2023"
SOURCE_URL = "https://github.com/hppRC/llm-lora-classification"

# The rest of the published recipe; a setting with another value is not the published one. data.truncation is left out:
# runs that cut long texts in the body, which is the default here, are compared with the published runs, which cut at
# the end.
_RECIPE: Mapping[str, Any] = {
    "model.weights": "pretrained",
    "model.pooling": "last",
    "data.split_seed": 42,
    "data.limit": None,
    "data.folds": None,
    "data.max_length": 512,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.1,
    "lora.target_modules": None,
    "lora.use_rslora": False,
    "lora.use_dora": False,
    "loss.name": "cross_entropy",
    "loss.class_weights": None,
    "loss.label_smoothing": 0,
    "optimizer.weight_decay": 0.01,
    "optimizer.warmup_epochs": 1,
    "optimizer.max_grad_norm": None,
    "trainer.max_epochs": 10,
    "trainer.monitor": "f1",
}


@cache
def published_rows() -> tuple[Mapping[str, Any], ...]:
    """The 160 rows; scores are fractions, an empty cell is None."""
    text = (files("llm_cls.assets") / "reference" / "published_results.csv").read_text(encoding="utf-8")
    return tuple({k: as_number(v) if v else None for k, v in row.items()} for row in csv.DictReader(text.splitlines()))


@cache
def _by_axes() -> dict[tuple[Any, ...], Mapping[str, Any]]:
    return {tuple(row[axis] for axis in AXES): row for row in published_rows()}


def published(setting: Setting) -> Mapping[str, Any] | None:
    """The published row of the same model, template, lr, batch size and r by the same recipe, if there is one."""
    for run in setting.runs:
        if run.record is None or run.record.data.name != "livedoor":
            return None
        if any(as_number(run.config.get(key, wanted)) != wanted for key, wanted in _RECIPE.items()):
            return None
    return _by_axes().get(tuple(setting.axes.values()))
