"""Values of a report as text."""

import math
import re
from typing import Any, Literal

from llm_cls.metrics.percent import percent

# "rate" is a learning rate, written as 5e-4; "percent" and "points" are fractions, written times 100 with two digits,
# points with their sign; "loss" has four digits.
# "passages" are texts of the data, for the page alone.
Kind = Literal["text", "number", "rate", "percent", "points", "loss", "passages"]

# Control characters, marks that reverse the direction of text, and halves of surrogate pairs.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def cell(value: Any, kind: Kind) -> str:
    """A value of a column as text for readers; empty for None."""
    if value is None:
        return ""
    if kind == "percent" and isinstance(value, int | float):
        return str(percent(value))
    if kind == "points" and isinstance(value, int | float):
        return f"{percent(value):+}"
    if kind == "rate" and isinstance(value, int | float):
        return rate(value)
    if isinstance(value, float):
        return f"{value:.4f}" if kind == "loss" else f"{value:g}"
    return printable(str(value))


def sentence_case(text: str) -> str:
    """``text`` as a heading: its first letter is a capital.

    >>> sentence_case("weighted F1")
    'Weighted F1'
    """
    return text[:1].upper() + text[1:]


def rate(value: float) -> str:
    """A learning rate as it is typed on a command line, such as 5e-4."""
    if not 0 < value < 0.1:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    return f"{value / 10.0**exponent:g}e{exponent}"


def printable(text: str) -> str:
    """``text`` with each character that XML forbids, or that could mislead a reader, replaced."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
