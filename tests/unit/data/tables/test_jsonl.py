"""JSON in all its layouts: strings as they are, other values as the text that the file has."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_cls.data.rows import TableFormat, iter_rows, read_rows
from llm_cls.errors import DataError

STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.one_of(STRINGS, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
ROWS = st.lists(st.dictionaries(st.sampled_from(["text", "label", "ほか", ""]), VALUES, min_size=1), min_size=1)


def as_text(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as they must be read: the json module's own text for what is no string."""
    names = dict.fromkeys(name for row in rows for name in row)
    keep = (str, type(None))
    return [{n: value if isinstance(value := row.get(n), keep) else json.dumps(value) for n in names} for row in rows]


def written(rows: list[dict[str, Any]], layout: str, ascii: bool) -> str:
    if layout == "list":
        return json.dumps(rows, indent=1, ensure_ascii=ascii)
    if layout == "field":
        return json.dumps({"version": [1], "data": {"rows": rows}}, ensure_ascii=ascii)
    indent = 2 if layout == "spread" else None
    return (" " if layout == "one line" else "\n").join(json.dumps(r, indent=indent, ensure_ascii=ascii) for r in rows)


@given(ROWS, st.sampled_from(["lines", "spread", "one line", "list", "field"]), st.booleans(), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_what_the_json_module_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], layout: str, ascii: bool, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "t.json"
    path.write_text(written(rows, layout, ascii), encoding="utf-8", newline="")
    format = TableFormat(field="data.rows" if layout == "field" else None)
    assert read_rows(path, format) == as_text(rows)
    assert [row for part in iter_rows(path, format, chunk) for row in part] == as_text(rows)


@given(st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(STRINGS, inner)), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_an_object_may_break_wherever_json_allows(
    tmp_path_factory: pytest.TempPathFactory, value: Any, indent: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.jsonl"
    text = json.dumps({"value": value}, indent=indent)
    path.write_text(f'{text}\n\n{text} {{"value": "next"}}\n', encoding="utf-8")
    first, second, third = read_rows(path)
    assert first == second and third == {"value": "next"} and list(first) == ["value"]


def test_a_key_of_the_last_row_is_in_all_chunks(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}"} for i in range(25)] + [{"text": "last", "label": "x"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    chunks = list(iter_rows(tmp_path / "t.jsonl", chunk_rows=10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 6]
    assert {tuple(row) for chunk in chunks for row in chunk} == {("text", "label")}


@pytest.mark.parametrize(
    ("content", "field", "part"),
    [
        ('{"data": [], "rows": [{"a": 1}]}', "row", "data.field=row: there is no field 'row'. Did you mean 'rows'?"),
        ('{"data": {"rows": {}}}', "data.rows", "data.field=data.rows must be a list of objects, found an object"),
        ('{"data": 1}', "data.rows", "data.field=data.rows: there is no field 'rows'. There are no fields."),
        ('{"a": 1}\n{"a": 2}', "a", "line 2: Extra data. data.field needs a file that is one JSON document"),
        ('[{"a": 1}, "b"]', None, "row 2 must be an object such as"),
        ('{"a": 1}\n"b"', None, "row 2 (line 2) must be an object such as"),
    ],
)
def test_documents_that_cannot_be_read(tmp_path: Path, content: str, field: str | None, part: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "t.json", TableFormat(field=field))
    assert part in str(caught.value) and "\n" not in str(caught.value)
