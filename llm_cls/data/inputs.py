"""From the rows of a table to the texts that a trained run reads; a row without a text keeps its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_cls.config.schema import Config, DataConfig, TemplateConfig
from llm_cls.data.columns import alias_columns, read_columns, with_columns
from llm_cls.data.rows import Row, as_text
from llm_cls.data.template import Pieces, layout, render


@dataclass(frozen=True)
class TextColumns:
    """The columns of a table that make the texts.

    Attributes:
        data: Names the columns.
        template: How they become one string.
        section: What stands before the keys in messages, such as "data.".
    """

    data: DataConfig
    template: TemplateConfig
    section: str

    @classmethod
    def of(cls, config: Config, text: str | None, title: str | None, body: str | None, section: str) -> "TextColumns":
        """The columns that were named, and otherwise those of the training.

        Args:
            config: The configuration of the training.
            text: Name of the column with the text, for a template without titles.
            title: Name of the column with the title.
            body: Name of the column with the body.
            section: What stands before the keys in messages.
        """
        data = with_columns(config.data, config.template, text, title, body)
        return cls(data, config.template, section)

    @property
    def names(self) -> dict[str, str]:
        """The columns in the order of the template, by the names that they have in it."""
        aliases = alias_columns(self.data)
        return {field: aliases.get(field, field) for _, field in layout(self.template, self.data).slots}

    def check(self, row: Row, path: Path) -> None:
        """Checks that the first row of a table has these columns.

        Raises:
            DataError: It lacks one.
        """
        read_columns([dict.fromkeys(row, "")], self.data, path, self.section)

    def read(self, rows: Sequence[Row]) -> tuple[list[Pieces], list[str]]:
        """The rendered texts of those rows that have one, and what is wrong with each row.

        Returns:
            ``(pieces, faults)``: the parts of each text, as ``template.render`` returns them, and for every row the
            reason why it has no text, "" where it has one.
        """
        parts, columns = layout(self.template, self.data), self.names
        needed = ["body"] if "body" in columns else list(columns)
        pieces, faults = [], []
        for row in rows:
            cells = {field: cell_text(row, name) for field, name in columns.items()}
            fault = next((fault for _, fault in cells.values() if fault), "")
            if not fault and self.data.on_empty != "keep":
                fault = _missing(row, {columns[field]: cells[field][0] for field in needed})
            faults.append(fault)
            if not fault:
                pieces.append(render(parts, {field: text for field, (text, _) in cells.items()}))
        return pieces, faults


def _missing(row: Row, texts: Mapping[str, str]) -> str:
    """Why a row has nothing to read in these columns, given with their texts; "" where it has."""
    if any(text.strip() for text in texts.values()):
        return ""
    names = list(texts)
    what = "missing" if all(row.get(name) is None for name in names) else "empty"
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {what}"


def cell_text(row: Row, name: str) -> tuple[str, str]:
    """A cell as text, written as ``rows.column`` writes it for the training, and what is wrong with it."""
    value = row.get(name)
    if isinstance(value, dict | list | bytes):
        return "", f"{name} is a {type(value).__name__}, not a string"
    text = as_text(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "", f"{name} is not valid Unicode"
    return text, ""
