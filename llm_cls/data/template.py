"""Templates: the columns of a text as one string, and the parts of it that may be cut."""

from collections.abc import Mapping
from typing import NamedTuple

from llm_cls.config.schema import DataConfig, TemplateConfig
from llm_cls.config.texts import LONGEST, parse_template

# A text in parts: (before, value, before, value, ..., rest, suffix). Joined they are the text. A text that is too long
# is cut at the end of its values. The rest, which has columns, is cut only where it is too long by itself; the suffix,
# which has none, is always kept.
Pieces = tuple[str, ...]


class Layout(NamedTuple):
    """A template for the columns of a corpus.

    Attributes:
        slots: The fields in their order, each after the literal text before it.
        tail: The literal text after the last field.
        cut: The fields that may be cut.
    """

    slots: tuple[tuple[str, str], ...]
    tail: str
    cut: frozenset[str]


def layout(template: TemplateConfig, data: DataConfig) -> Layout:
    """The layout of ``template``, whose ``{body}`` has a line for each column where ``data.text`` is a list."""
    bodies = data.text if isinstance(data.text, list) else ["body"]
    slots: list[tuple[str, str]] = []
    tail = ""
    for literal, field in parse_template(template.text):
        tail += literal
        if field is not None:
            names = bodies if field == "body" else [field]
            slots += [(tail if i == 0 else "\n", name) for i, name in enumerate(names)]
            tail = ""
    fields = {name for _, name in slots}
    if data.cut is None:
        cut = set(bodies) if set(bodies) <= fields else fields
    else:
        cut = fields if data.cut == LONGEST else {data.cut}
    return Layout(tuple(slots), tail, frozenset(cut))


def render(parts: Layout, values: Mapping[str, str]) -> Pieces:
    r"""A text in the template, in parts.

    Args:
        parts: The template.
        values: Its columns by the names that they have in the template.

    >>> render(Layout((("Q: ", "question"), ("\nA: ", "answer")), ".", frozenset({"question"})),
    ...        {"question": "Why?", "answer": "So"})
    ('Q: ', 'Why?', '\nA: So', '.')
    """
    pieces: list[str] = []
    before = ""
    for literal, field in parts.slots:
        before += literal
        if field in parts.cut:
            pieces += [before, values[field]]
            before = ""
        else:
            before += values[field]
    return (*pieces, before, parts.tail)
