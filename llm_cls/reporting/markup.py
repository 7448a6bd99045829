"""HTML and SVG whose text is escaped by construction."""

from collections.abc import Iterable
from html import escape

from llm_cls.reporting.export import printable

_VOID = {"meta", "br", "hr"}


class Safe(str):
    """Markup made by ``tag`` or ``join``. Any other string is text and gets escaped."""

    __slots__ = ()


Child = str | int | float | None


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Safe:
    """An element.

    Args:
        name: Name of the element.
        children: Markup, or text to escape; None is left out.
        attributes: ``class_`` is class and ``aria_label`` aria-label; None and False are left out.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        # viewBox, preserveAspectRatio: SVG keeps capitals, which keyword arguments do too
        shown = (
            "" if value is True else f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        )
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(printable(shown))}"')
    parts.append(">")
    if name in _VOID:
        return Safe("".join(parts))
    return Safe("".join(parts) + join(children) + f"</{name}>")


def join(children: Iterable[Child]) -> Safe:
    """Markup and escaped text, one after the other."""
    return Safe("".join(c if isinstance(c, Safe) else escape(printable(str(c))) for c in children if c is not None))


def japanese(text: str) -> Safe:
    """Text that may be Japanese: without the mark, browsers may draw Chinese forms of its characters."""
    return tag("span", text, lang=None if text.isascii() else "ja")
