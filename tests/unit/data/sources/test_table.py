"""The corpus of a table: columns, splits, labels, digest, and the messages for what cannot be used."""

import csv
import json
from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import SPLITS, Corpus
from llm_cls.data.sources.table import load_table
from llm_cls.errors import DataError

DIGEST = "57ca9a456d4afee05206ed568a7013b30cdb10d8c1af6d0039c34a919dc4c240"  # of the rows of the first test
GOOD = "text,label\n" + "".join(f"t{i},{'xy'[i % 2]}\n" for i in range(12))


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def load(path: Path, **keys: object) -> Corpus:
    given = {"name": "table", "cache_dir": path.parent / "cache", "file": path, "text": "text", "label": "label"}
    return load_table(DataConfig.model_validate(given | keys))


def test_digest_is_that_of_earlier_releases_in_every_format(tmp_path: Path) -> None:
    """A digest is part of the identity of a run: another digest would train finished runs again."""
    import pandas

    cells = ["007", "1e3", "2024_01", "NA", "true", 'a "b", c', "line\nbreak", " 空白 "]
    rows = [{"text": f"{cells[i % 8]} {i}", "label": cells[i % 5], "id": f"{i:03d}"} for i in range(40)]
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"t.{ending}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path / "t.json", json.dumps(rows))
    pandas.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    corpora = [load(tmp_path / f"t.{ending}", id="id") for ending in ("csv", "tsv", "jsonl", "json", "parquet")]
    assert {corpus.digest for corpus in corpora} == {DIGEST}
    assert {corpus.labels for corpus in corpora} == {("007", "1e3", "2024_01", "NA", "true")}


@pytest.mark.parametrize(
    ("labels", "digest"),
    [
        ([1, 2.5], "5904f9599dbacae00cd673f0758eef6d6d350bf125635bd389b2d0eb8c0d2a97"),
        (["2020-01-01", "1e3"], "24204b508ac74c0ff34acfc55a8be3565afa727b4bc8dbcdb8dbd62008f2bdea"),
    ],
)
def test_digest_of_json_values_is_that_of_earlier_releases(tmp_path: Path, labels: list[object], digest: str) -> None:
    rows = [{"text": f"t{i}", "label": labels[i % 2], "id": i} for i in range(40)]
    path = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert load(path, id="id").digest == digest


@pytest.mark.parametrize(("values", "labels"), [([True, False], ("false", "true")), ([1.10, 2.0], ("1.1", "2.0"))])
def test_json_values_are_labels_as_they_are_written(tmp_path: Path, values: list[object], labels: object) -> None:
    rows = [{"text": f"t{i}", "label": values[i % 2]} for i in range(40)]
    assert load(write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))).labels == labels


def test_ids_are_row_numbers_or_a_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", GOOD)
    numbered = load(path)
    assert {t.id: t.body for s in SPLITS for t in numbered.splits[s]} == {f"row-{i + 1}": f"t{i}" for i in range(12)}
    assert {t.id for s in SPLITS for t in load(path, id="text").splits[s]} == {f"t{i}" for i in range(12)}


@pytest.mark.parametrize(
    ("content", "keys", "part"),
    [
        (GOOD, {"label": "lable"}, "Did you mean 'label'?"),
        (GOOD + ",x\n", {}, "row 13 of column 'text' is empty"),
        (GOOD + "a,\n", {}, "row 13 of column 'label' is empty"),
        (GOOD + "a,\nb,\nc,z\nd,\n", {}, "row 13 of column 'label' is empty (and 2 more rows) (line 14). Fill it in"),
        (
            GOOD,
            {"id": "label"},
            "t.csv: row 3 has the data.id=label of row 1, 'x'; in all, 2 ids occur more than once, in 12 rows (line 4)",
        ),
        (
            "id,text,label\na,t,x\nb,u,y\na,v,x\n",
            {"id": "id"},
            "t.csv: row 3 has the data.id=id of row 1, 'a'; in all, 1 id occurs more than once, in 2 rows (line 4). "
            "Correct them, or choose another column",
        ),
        *(
            (
                "text,label,by\n" + "".join(f"t{i},{'xy'[i % 2]},me\n" for i in range(12)),
                {"group": "by", "rare_labels": rare},
                "data.group=by must have at least 3 groups, one for each part of the split, found 1, 'me', in all "
                "rows. Choose another column, or leave data.group out",
            )
            for rare in ("error", "drop", "merge")
        ),
        (GOOD + "z,rare\n", {}, "label 'rare' has 1 text,"),
        (GOOD.replace(",y", ",x"), {}, "data.label=label must have at least two labels, found 1"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: str, keys: dict[str, object], part: str) -> None:
    with pytest.raises(DataError) as caught:
        load(write(tmp_path / "t.csv", content), **keys)
    assert part in str(caught.value) and "t.csv" in str(caught.value)


def test_text_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    same = "text,label\n" + "".join(f"{'same' if i < 9 else i},{'xy'[i % 2]}\n" for i in range(40))
    assert any("more than one split" in warning for warning in load(write(tmp_path / "t.csv", same)).warnings)


def separate(tmp_path: Path, train: str, val: str, test: str, **keys: object) -> Corpus:
    files = {
        f"{name}_file": write(tmp_path / f"{name}.csv", "title,text,label\n" + rows)
        for name, rows in (("train", train), ("val", val), ("test", test))
    }
    given = {"name": "table", "cache_dir": tmp_path / "cache", "title": "title", "body": "text", "label": "label"}
    return load_table(DataConfig.model_validate(given | files | keys))


def test_separate_files_are_used_as_they_are(tmp_path: Path) -> None:
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
        "table: 1 of 2 labels have only one training text",
        "table: 2 texts occur in more than one split",
    ]
