"""From the rows of a table to the texts that a trained run reads; a row without a text keeps its place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_cls.config.schema import Config
from llm_cls.data.rows import Row, column
from llm_cls.data.template import render


@dataclass(frozen=True)
class TextColumns:
    """The columns of a table that make the texts.

    Attributes:
        template: The string with ``{title}`` and ``{body}``.
        body: Name of the column with the body.
        title: Name of the column with the title; None where the template has none.
        body_key: Key that names the body, for messages.
        title_key: Key that names the title, for messages.
    """

    template: str
    body: str
    title: str | None
    body_key: str
    title_key: str

    @classmethod
    def of(cls, config: Config, text: str | None, title: str | None, body: str | None, prefix: str) -> "TextColumns":
        """The columns that were named, and otherwise those of the training.

        Args:
            config: The configuration of the training.
            text: Name of the column with the text, for a template without titles.
            title: Name of the column with the title.
            body: Name of the column with the body.
            prefix: Of the keys in messages, such as "data.".
        """
        data, template = config.data, config.template
        return cls(
            template=template.text,
            body=text or body or data.text or data.body or "body",
            title=(title or data.title or "title") if template.uses_title else None,
            body_key=f"{prefix}text" if data.text or not template.uses_title else f"{prefix}body",
            title_key=f"{prefix}title",
        )

    def check(self, row: Row, path: Path) -> None:
        """Checks that the first row of a table has these columns.

        Raises:
            DataError: It lacks one.
        """
        names = [dict.fromkeys(row, "")]
        column(names, self.body, self.body_key, path, may_be_empty=True)
        if self.title is not None:
            column(names, self.title, self.title_key, path, may_be_empty=True)

    def read(self, rows: Sequence[Row]) -> tuple[list[tuple[str, str]], list[str]]:
        """The rendered texts of those rows that have one, and what is wrong with each row.

        Returns:
            ``(pieces, faults)``: ``(head, tail)`` of each text, as ``template.render`` returns them, and for every row
            the reason why it has no text, "" where it has one.
        """
        pieces, faults = [], []
        for row in rows:
            body, fault = cell_text(row, self.body)
            title = ""
            if not fault and not body.strip():
                fault = f"{self.body} is {'missing' if row.get(self.body) is None else 'empty'}"
            if not fault and self.title is not None:
                title, fault = cell_text(row, self.title)
            faults.append(fault)
            if not fault:
                pieces.append(render(self.template, title, body))
        return pieces, faults


def cell_text(row: Row, name: str) -> tuple[str, str]:
    """A cell as text, written as ``rows.column`` writes it for the training, and what is wrong with it."""
    value = row.get(name)
    if isinstance(value, dict | list | bytes):
        return "", f"{name} is a {type(value).__name__}, not a string"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    text = "" if value is None or value != value else str(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "", f"{name} is not valid Unicode"
    return text, ""
