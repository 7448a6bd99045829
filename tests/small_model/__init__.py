"""A decoder of two layers that a step of training takes milliseconds with; ``make.py`` has made its files."""

from pathlib import Path

SMALL_MODEL = ["model=hf", f"model.name={Path(__file__).parent}"]  # the overrides that choose it
