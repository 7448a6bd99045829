"""Files that the libraries below would misread without a word, and separate files for the splits."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import SPLITS, Corpus
from llm_cls.data.table import column, load_table, read_rows
from llm_cls.errors import DataError

ROWS = "".join(f"t{i},{'xy'[i % 2]}\n" for i in range(8))
GOOD = f"text,label\n{ROWS}"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def load(path: Path, **keys: object) -> Corpus:
    given = {"name": "table", "cache_dir": path.parent / "cache", "file": path, "text": "text", "label": "label"}
    return load_table(DataConfig.model_validate(given | keys))


@pytest.mark.parametrize("name", ["a[1].csv", "a*.csv", "a?.csv", "データ (1).csv", "a%20b.csv", "A.CSV"])
def test_file_names_are_no_patterns(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a1.csv", "text\nanother file\n")
    path = write(tmp_path / name, "text\nthis file\n")
    assert read_rows(path, tmp_path / "cache") == [{"text": "this file"}]


def test_changed_file_with_the_same_time_and_size(tmp_path: Path) -> None:
    for letter in "ab":
        path = write(tmp_path / "t.csv", f"text\n{letter}\n")
        os.utime(path, (10**9, 10**9))
        assert read_rows(path, tmp_path / "cache") == [{"text": letter}]


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a table needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(read_rows(write(tmp_path / "t.csv", GOOD), tmp_path / "cache")) == 8


@pytest.mark.parametrize(
    "content",
    [f"\n{GOOD}", "\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD.replace("text", '"text"', 1), GOOD.rstrip()],
    ids=["blank line first", "BOM", "CRLF", "quoted header", "no newline at the end"],
)
def test_csv_dialects(tmp_path: Path, content: str) -> None:
    rows = read_rows(write(tmp_path / "t.csv", content), tmp_path / "cache")
    assert rows == [{"text": f"t{i}", "label": "xy"[i % 2]} for i in range(8)]


def test_csv_with_the_index_that_pandas_writes(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "t.csv"
    pandas.DataFrame({"text": ["a", "b"], "label": ["x", "y"]}).to_csv(path)
    assert [(row["text"], row["label"]) for row in read_rows(path, tmp_path / "cache")] == [("a", "x"), ("b", "y")]


@pytest.mark.parametrize("more", [",", ",z"])
def test_csv_with_more_fields_than_names_is_not_shifted(tmp_path: Path, more: str) -> None:
    path = write(tmp_path / "t.csv", "text,label\n" + ROWS.replace("\n", f"{more}\n"))
    with pytest.raises(DataError, match="row 1 must have 2 fields, as the first line has, found 3"):
        load(path)


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json"])
def test_json_text_that_looks_like_a_date_stays_text(tmp_path: Path, ending: str) -> None:
    rows = [{"id": f"2020-01-0{i + 1}", "text": f"t{i}", "label": ["2019-01-01", "2020-02-02T00:00:00"][i % 2]}
            for i in range(8)]  # fmt: skip
    content = json.dumps(rows) if ending == "json" else json_lines(rows)
    corpus = load(write(tmp_path / f"t.{ending}", content), id="id")
    assert corpus.labels == ("2019-01-01", "2020-02-02T00:00:00")
    assert {t.id: t.body for s in SPLITS for t in corpus.splits[s]} == {str(r["id"]): r["text"] for r in rows}


@pytest.mark.parametrize(
    ("given", "labels"),
    [([1, "a"], ("1", "a")), ([1, 1.5], ("1", "1.5")), (["0", "01"], ("0", "01")), ([1e300, 1], ("1", "1e+300"))],
)
def test_json_labels(tmp_path: Path, given: list[Any], labels: tuple[str, ...]) -> None:
    rows = [{"text": f"t{i}", "label": given[i % 2]} for i in range(8)]
    assert load(write(tmp_path / "t.jsonl", json_lines(rows))).labels == labels


def parquet(path: Path, labels: Any) -> Path:
    import pyarrow
    from pyarrow.parquet import write_table

    array = labels if isinstance(labels, pyarrow.Array) else pyarrow.array(labels, from_pandas=False)
    write_table(pyarrow.table({"text": [f"t{i}" for i in range(len(array))], "label": array}), path)
    return path


def test_parquet_categories_are_labels(tmp_path: Path) -> None:
    import pyarrow

    labels = pyarrow.array(["007", "x"] * 4).dictionary_encode()
    assert load(parquet(tmp_path / "t.parquet", labels)).labels == ("007", "x")


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        ([1.0, float("nan")] * 4, "row 2 of column 'label' is empty"),
        (["x", None] * 4, "row 2 of column 'label' is empty"),
        ([b"x", b"y"] * 4, "row 1 of column 'label' must be one value, found a bytes"),
        ([["x"], ["y"]] * 4, "row 1 of column 'label' must be one value, found a list"),
        ([], "has no rows"),
    ],
)
def test_parquet_labels_that_are_none(tmp_path: Path, labels: list[Any], part: str) -> None:
    with pytest.raises(DataError, match=part):
        load(parquet(tmp_path / "t.parquet", labels))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", GOOD + '"open,x\n'),
        ("t.csv", GOOD.encode() + b"x" * 300_000 + b"\x93\xfa,x\n"),
        ("t.jsonl", json_lines([{"text": "t", "label": "x"}]) + '{"text": "x'),
        ("t.parquet", b"PAR1 and no more"),
    ],
)
def test_libraries_keep_quiet_about_a_broken_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: str | bytes
) -> None:
    import datasets

    before = datasets.utils.logging.get_verbosity(), datasets.utils.logging.is_progress_bar_enabled()
    with pytest.raises(DataError, match="can't be read as") as caught:
        load(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert (datasets.utils.logging.get_verbosity(), datasets.utils.logging.is_progress_bar_enabled()) == before


def test_unknown_column_is_answered_with_the_columns(tmp_path: Path) -> None:
    rows = [{"te\x1bxt": "a", "label": "b"}]
    with pytest.raises(DataError) as caught:
        column(rows, "text", "data.text", tmp_path / "t.csv")
    expected = "has no column 'text'. Did you mean 'te\\x1bxt'? It has 'te\\x1bxt', 'label'. Try data.text=COLUMN"
    assert str(caught.value) == f"{tmp_path / 't.csv'}: {expected}"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("none.csv", "folder.csv"):
        with pytest.raises(DataError, match=f"{name}: there is no such file"):
            load(tmp_path / name)


def separate(tmp_path: Path, train: str, val: str, test: str, **keys: object) -> Corpus:
    files = {
        f"{name}_file": write(tmp_path / f"{name}.csv", "title,text,label\n" + rows)
        for name, rows in (("train", train), ("val", val), ("test", test))
    }
    given = {"name": "table", "cache_dir": tmp_path / "cache", "title": "title", "body": "text", "label": "label"}
    return load_table(DataConfig.model_validate(given | files | keys))


def test_separate_files_are_taken_as_they_are(tmp_path: Path) -> None:
    corpus = separate(tmp_path, "題,a,y\n,b,x\n題,c,x\n題,d,y\n", "題,e,x\n", "題,f,y\n題,g,x\n")
    assert [[(t.id, t.title, t.body, t.label) for t in corpus.splits[s]] for s in SPLITS] == [
        [("train-1", "題", "a", "y"), ("train-2", "", "b", "x"),
         ("train-3", "題", "c", "x"), ("train-4", "題", "d", "y")],
        [("val-1", "題", "e", "x")],
        [("test-1", "題", "f", "y"), ("test-2", "題", "g", "x")],
    ]  # fmt: skip
    assert corpus.labels == ("x", "y") and corpus.has_titles and corpus.warnings == ()


@pytest.mark.parametrize("where", ["val", "test"])
def test_label_that_training_lacks(tmp_path: Path, where: str) -> None:
    rows = dict.fromkeys(SPLITS, "t,a,x\nt,b,y\n")
    rows[where] += "t,c,z\n"
    with pytest.raises(DataError, match=f"{where}.csv: row 3 has the label 'z', which no training text has"):
        separate(tmp_path, **rows)


def test_warnings_of_separate_files(tmp_path: Path) -> None:
    corpus = separate(tmp_path, "t,a,x\nt,b,x\nt,c,y\n", "t,a,x\nt,b,x\n", "t,d,y\n")
    assert [w.partition(",")[0] for w in corpus.warnings] == [
        "table: 1 of 2 labels have one training text only",
        "table: 2 texts occur in more than one split",
    ]


def test_digest_follows_the_content(tmp_path: Path) -> None:
    first = load(write(tmp_path / "a.csv", GOOD))
    assert load(write(tmp_path / "b.csv", GOOD)).digest == first.digest
    assert load(write(tmp_path / "c.csv", GOOD.replace("t7", "t8"))).digest != first.digest
