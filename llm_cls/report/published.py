"""The published results that ours stand beside."""

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from llm_cls.report.settings import AXES, Setting, as_number

SOURCE = "Hayato Tsukagoshi, “Text Classification with LLMs and LoRA”, 2023"
SOURCE_URL = "https://github.com/hppRC/llm-lora-classification"


@cache
def published_rows() -> tuple[Mapping[str, Any], ...]:
    """The 160 rows; figures are fractions, an empty cell is None."""
    text = (files("llm_cls.assets") / "reference" / "published_results.csv").read_text(encoding="utf-8")
    return tuple({k: as_number(v) if v else None for k, v in row.items()} for row in csv.DictReader(text.splitlines()))


@cache
def _by_axes() -> dict[tuple[Any, ...], Mapping[str, Any]]:
    return {tuple(row[axis] for axis in AXES): row for row in published_rows()}


def published(setting: Setting) -> Mapping[str, Any] | None:
    """The published row of the same model, template, lr, batch size and r on the same corpus, if there is one."""
    run = setting.runs[0]
    if run.record is None or run.record.data.name != "livedoor" or run.config.get("data.limit") is not None:
        return None
    return _by_axes().get(tuple(setting.axes.values()))
