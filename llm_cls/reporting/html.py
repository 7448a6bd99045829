"""The frame of the page, and tables in it."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from llm_cls.reporting.export import cell
from llm_cls.reporting.markup import Child, Safe, japanese, join, tag
from llm_cls.reporting.tables import Column, Table


def page(title: str, header: Safe, sections: Sequence[tuple[str, str, Safe]], footer: Safe) -> str:
    """The whole document: one file, nothing loaded from elsewhere.

    The policy allows the one style sheet and the one script by their hashes, and nothing else: markup that
    came in by a title could neither run nor load anything.

    Args:
        title: Of the document.
        header: Under the heading.
        sections: Anchor, heading and content of each.
        footer: At the end.
    """
    style, script = _asset("style.css"), _asset("sort.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Safe(style)),
    )
    links = [tag("li", tag("a", heading, href=f"#{anchor}")) for anchor, heading, _ in sections]
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag("header", tag("h1", title), header),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *(_section(*section) for section in sections), id="content"),
        tag("footer", footer),
        tag("script", Safe(script)),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _section(anchor: str, heading: str, content: Safe) -> Safe:
    return tag("section", tag("h2", heading), content, id=anchor, aria_label=heading)


def _asset(name: str) -> str:
    return (files("llm_cls.reporting") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def results_table(table: Table) -> Safe:
    """A results table under its note."""
    return rows_table(table.title, table.note, table.shown_columns, table.rows)


def rows_table(title: str, note: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Safe:
    """A sortable table; values that are markup are put in as such."""
    headings = (c.heading.replace("95 % ", "95\N{NO-BREAK SPACE}% ") for c in columns)
    head = tag("tr", *(tag("th", h, scope="col", class_=_numeric(c)) for h, c in zip(headings, columns, strict=True)))
    body = [tag("tr", *(_cell(row.get(c.key), c, i == 0) for i, c in enumerate(columns))) for row in rows]
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="sortable", aria_label=title)
    return scrollable(title, note, table)


def scrollable(title: str, note: str, table: Safe) -> Safe:
    """A note, and a table in a region that scrolls sideways on small screens, reachable by keyboard."""
    region = tag("div", table, class_="scroll", role="region", aria_label=f"{title}, scrollable", tabindex=0)
    return join([tag("p", note, class_="soft") if note else None, region])


def _cell(value: Any, column: Column, first: bool) -> Safe:
    if isinstance(value, Safe):
        return tag("td", value, class_="wide")
    text = cell(value, column)
    first = first and text != ""  # an empty heading would tell a screen reader nothing
    if column.kind != "text":
        number = isinstance(value, int | float) and math.isfinite(value)
        return tag("td", text, class_="n", data_v=repr(value) if number else "" if not text else None)
    long = "long" if len(text) > 24 else None
    return tag("th", japanese(text), scope="row", class_=long) if first else tag("td", japanese(text), class_=long)


def _numeric(column: Column) -> str | None:
    return None if column.kind == "text" else "n"


def plots(*figures: Safe | None) -> Safe | None:
    """Figures side by side where there is room; None where there is none."""
    drawn = [f for f in figures if f is not None]
    return tag("div", *drawn, class_="plots" if len(drawn) > 1 else "plots one") if drawn else None


def paragraphs(*texts: Child) -> Safe:
    """A paragraph for each text that is not empty."""
    return join(tag("p", text) for text in texts if text)
