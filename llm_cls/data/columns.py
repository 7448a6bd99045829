"""The columns of a table as texts: the same for training, prediction and evaluation."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from llm_cls.config.messages import echo, nearest
from llm_cls.config.schema import DataConfig, TemplateConfig
from llm_cls.data.corpus import Text
from llm_cls.data.rows import Row, column
from llm_cls.data.tables.format import row_fault, row_place
from llm_cls.errors import DataError


def with_columns(
    data: DataConfig, template: TemplateConfig, text: str | None, title: str | None, body: str | None
) -> DataConfig:
    """``data`` of a run with the columns of another table: those given, or else those of the training table.

    A run on a corpus without columns, such as livedoor, has ``title`` and ``body``. The rows are numbered.
    """
    used = [name for name in data.columns or () if name in template.fields]
    columns: dict[str, str | list[str] | None] = {"id": None, "title": None, "columns": used or None}
    if template.uses_title and "title" not in (data.columns or ()):
        columns["title"] = title or data.title or "title"
    if "body" in template.fields and (text or body or not isinstance(data.text, list)):
        name = text or body or data.text or data.body or "body"
        columns |= {"text": name, "body": None} if data.text else {"text": None, "body": name}
    return data.model_copy(update=columns)


def read_columns(rows: Sequence[Row], data: DataConfig, path: Path, section: str = "data.") -> list[Text]:
    """The rows as texts without labels, in their order; any of them may be empty.

    Raises:
        DataError: There is no such column, or a cell is not a single value.
    """
    keys = {"title": f"{section}title", "body": f"{section}{'text' if data.text else 'body'}"}
    named = {
        field: column(rows, name, keys[field], path, may_be_empty=True) for field, name in alias_columns(data).items()
    }
    titles, bodies = (named.get(field, [""] * len(rows)) for field in keys)
    others = text_columns(data)
    _check_template_columns(rows[0], [name for name in others if name not in data.body_columns], path)
    values = [column(rows, name, f"{section}text", path, may_be_empty=True) for name in others]
    ids = [str(i + 1) for i in range(len(rows))]
    if data.id:
        ids = column(rows, data.id, f"{section}id", path, may_be_empty=True)
    cells = zip(*values, strict=True) if values else [()] * len(rows)
    return [
        Text(ids[i], "", titles[i], bodies[i], tuple(zip(others, row, strict=True)), row=i + 1)
        for i, row in enumerate(cells)
    ]


def _check_template_columns(row: Row, names: Sequence[str], path: Path) -> None:
    """Refuses a table that lacks a column which the template names."""
    if lacking := next((name for name in names if name not in row), None):
        near = nearest(lacking, list(row))
        question = f"{near} " if near.startswith("Did") else ""
        known = ", ".join(map(repr, islice(row, 20)))
        raise DataError(
            f"{path} has no column {lacking!r}, which the template names. {question}It has {known}. Correct "
            "template.text, or the column"
        )


def alias_columns(data: DataConfig) -> dict[str, str]:
    """The columns that a template calls ``title`` and ``body``, as far as there are such, by these two names."""
    single = data.body or (data.text if isinstance(data.text, str) else None)
    return {field: name for field, name in (("title", data.title), ("body", single)) if name}


def text_columns(data: DataConfig) -> list[str]:
    """The columns besides those of title and body, in the order of ``Text.columns``."""
    several = data.text if isinstance(data.text, list) else []
    return list(dict.fromkeys([*several, *(data.columns or ())]))


def check_ids_differ(texts: Sequence[Text], rows: Sequence[Row], name: str, path: Path) -> None:
    """Refuses a column of ids in which one is empty or occurs twice.

    Raises:
        DataError: One is.
    """
    if empty := next((text.row for text in texts if not text.id.strip()), None):
        fault = f"of column {name!r} is empty"
        raise DataError(row_fault(rows[empty - 1], empty, path, fault, "Fill it in, or remove the row"))
    counts = Counter(text.id for text in texts)
    repeated = [text for text in texts if counts[text.id] > 1]
    if repeated:
        first, again = [text.row for text in repeated if text.id == repeated[0].id][:2]
        n = len({text.id for text in repeated})
        fault = (
            f"has the data.id={name} of {row_place(rows[first - 1], first, rows[again - 1])}, "
            f"{echo(repr(repeated[0].id))}; in all, {n} id{'s' * (n > 1)} occur{'s' * (n == 1)} more than once, in "
            f"{len(repeated)} rows"
        )
        raise DataError(row_fault(rows[again - 1], again, path, fault, "Correct them, or choose another column"))


def is_empty(text: Text, data: DataConfig) -> bool:
    """Whether there is nothing to read in a text."""
    if data.body or isinstance(data.text, str):
        return not text.body.strip()
    return not any(value.strip() for value in text.content)


def handle_empty(texts: Sequence[Text], rows: Sequence[Row], data: DataConfig, path: Path) -> list[Text]:
    """The texts without empty ones, as ``data.on_empty`` says.

    Raises:
        DataError: One is empty, which is an error by default.
    """
    if data.on_empty == "keep":
        return list(texts)
    empty = [text for text in texts if is_empty(text, data)]
    if empty and data.on_empty == "error":
        names = data.body_columns or data.input_columns
        what = f"column {names[0]!r} is" if len(names) == 1 else f"columns {', '.join(map(repr, names))} is"
        others = f" (and {len(empty) - 1} more rows)" if len(empty) > 1 else ""
        i = empty[0].row - 1
        fix = "Fill it in, or remove the row, or try data.on_empty=skip"
        raise DataError(row_fault(rows[i], i + 1, path, f"of {what} empty{others}", fix))
    return [text for text in texts if not is_empty(text, data)]
