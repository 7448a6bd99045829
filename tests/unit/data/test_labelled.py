"""From the rows of tables to a corpus: splits, labels, empty and repeated texts."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import SPLITS, Corpus
from llm_cls.data.labelled import corpus_of_rows
from llm_cls.data.labels import match_labels
from llm_cls.data.rows import Row
from llm_cls.data.split import portions
from llm_cls.errors import DataError

FILE = {"file": Path("t.csv")}
TRAIN_TEST = {"train_file": Path("train.csv"), "test_file": Path("test.csv")}
TRAIN_VAL = {"train_file": Path("train.csv"), "val_file": Path("val.csv")}
ALL_THREE = {f"{split}_file": Path(f"{split}.csv") for split in SPLITS}


def rows(counts: dict[str, int], first: int = 0, **more: str) -> list[Row]:
    """Rows with texts of their own, sorted by label."""
    labels = [label for label, n in counts.items() for _ in range(n)]
    return [{"text": f"text {i}", "label": label, **more} for i, label in enumerate(labels, first)]


def build(tables: Sequence[list[Row]], files: dict[str, Path] = FILE, **keys: object) -> Corpus:
    given_keys = {"name": "table", "cache_dir": "cache", "text": "text", "label": "label"} | files | keys
    config = DataConfig.model_validate(given_keys)
    names = ["" if key == "file" else key.removesuffix("_file") for key in files]
    paths = dict(zip(names, files.values(), strict=True))
    return corpus_of_rows(config, dict(zip(names, tables, strict=True)), paths)


def refused(tables: Sequence[list[Row]], files: dict[str, Path] = FILE, **keys: object) -> str:
    with pytest.raises(DataError) as caught:
        build(tables, files, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ids(corpus: Corpus, split: str) -> list[str]:
    return [text.id for text in corpus.splits[split]]


def counts(corpus: Corpus, split: str) -> dict[str, int]:
    return dict(Counter(text.label for text in corpus.splits[split]))


# Splits


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(2, 40), min_size=2, max_size=5), seed=st.integers(0, 3))
def test_val_is_a_tenth_of_train_within_each_label(sizes: list[int], seed: int) -> None:
    train = rows({f"l{i}": n for i, n in enumerate(sizes)})
    test = rows({"l0": 3}, first=1000)
    found = build([train, test], TRAIN_TEST, split_seed=seed)
    assert sorted([*ids(found, "train"), *ids(found, "val")]) == sorted(f"train-{i + 1}" for i in range(len(train)))
    assert ids(found, "test") == ["test-1", "test-2", "test-3"] and found.has_test
    for label, n in ((f"l{i}", n) for i, n in enumerate(sizes)):
        assert counts(found, "val")[label] == max(1, round(n / 10 + 1e-9)) and label in counts(found, "train")
    assert ids(found, "train") == sorted(ids(found, "train"), key=lambda i: int(i[6:])), "in the order of the file"
    assert build([train, test], TRAIN_TEST, split_seed=seed) == found


def test_the_rows_of_val_depend_on_their_ids_and_the_seed_only() -> None:
    train = [row | {"id": f"{i:03d}"} for i, row in enumerate(rows({"a": 40, "b": 25}))]
    test = [row | {"id": f"t{i}"} for i, row in enumerate(rows({"a": 3}, first=1000))]
    found = build([train, test], TRAIN_TEST, id="id")
    assert set(ids(build([train[::-1], test], TRAIN_TEST, id="id"), "val")) == set(ids(found, "val"))
    assert set(ids(build([train, test], TRAIN_TEST, id="id", split_seed=1), "val")) != set(ids(found, "val"))


def test_a_train_file_alone_is_split_as_a_file_is() -> None:
    table = rows({"a": 20, "b": 30})
    alone = build([table], {"train_file": Path("train.csv")})
    assert alone == build([table]) and len(alone.splits["train"]) == portions(20)[0] + portions(30)[0]
    folds = build([table], {"train_file": Path("train.csv")}, folds=5)
    assert folds == build([table], folds=5)


def test_train_and_val_alone_have_no_test_split() -> None:
    found = build([rows({"a": 4, "b": 4}), rows({"a": 1, "b": 1}, first=9)], TRAIN_VAL)
    assert [len(found.splits[split]) for split in SPLITS] == [8, 2, 0] and not found.has_test
    assert found.warnings == (
        "table: there is no test split: the scores are those of val, by which the best epoch is chosen",
    )


def test_a_split_column() -> None:
    """As CLINC150 can be written: 150 intents and texts out of scope."""
    table = [
        row | {"part": part}
        for number, (part, n) in enumerate([("train", 3), ("validation", 1), ("test", 2)])
        for row in rows({f"intent {i:03d}": n for i in range(150)} | {"oos": n}, first=1000 * number)
    ]
    found = build([table], split="part")
    assert [len(found.splits[split]) for split in SPLITS] == [453, 151, 302] and len(found.labels) == 151
    assert ids(found, "val")[0] == "row-454", "rows are numbered through"
    other = [row | {"part": {"validation": " DEV"}.get(row["part"], row["part"].title())} for row in table]
    assert build([other], split="part") == found
    two = build([[row for row in table if row["part"] != "validation"]], split="part")
    assert [len(two.splits[split]) for split in SPLITS] == [302, 151, 302], "val is taken out of train"
    none = build([[row for row in table if row["part"] != "test"]], split="part")
    assert not none.has_test and len(none.splits["val"]) == 151


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (["train", "eval", "rest"], "row 2 of column 'part' must be train, val (or validation, dev) or test, found "
         "'eval', 'rest'. Correct the column"),
        (["val", "test", "test"], "column 'part' has no train rows, found 'test', 'val'"),
        (["train", "", "test"], "row 2 of column 'part' is empty"),
    ],
)  # fmt: skip
def test_split_columns_that_are_refused(values: list[str], part: str) -> None:
    table = [{"text": "t", "label": "a", "part": value} for value in values]
    assert part in refused([table], split="part")


def test_ready_folds() -> None:
    table = [row | {"fold": str(1 + i % 4)} for i, row in enumerate(rows({"a": 20, "b": 20}))]
    found = [build([table], fold_column="fold", fold=fold) for fold in (1, 2, 3, 4)]
    for fold, corpus in enumerate(found, 1):
        assert {int(i[4:]) % 4 for i in ids(corpus, "test")} == {fold % 4}
        assert set(ids(corpus, "test")) == set(ids(found[fold - 2], "val")), "val is the fold after test"
        assert sorted(i for split in SPLITS for i in ids(corpus, split)) == sorted(f"row-{i + 1}" for i in range(40))
    assert len({corpus.digest for corpus in found}) == 4
    assert "data.fold=0 is not in the column 'fold'. Try one of 1, 2, 3, 4" in refused([table], fold_column="fold")
    two = [row | {"fold": i % 2} for i, row in enumerate(table)]
    assert "must have at least three folds" in refused([two], fold_column="fold")
    named = [row | {"fold": "first"} for row in table]
    assert "row 1 of column 'fold' must be the number of a fold, found 'first'" in refused([named], fold_column="fold")


def test_groups_stay_together() -> None:
    table = [row | {"author": f"w{i % 17}"} for i, row in enumerate(rows({"a": 60, "b": 60}))]
    author = {f"row-{i + 1}": row["author"] for i, row in enumerate(table)}
    of_folds = [build([table], group="author", folds=5, fold=fold) for fold in range(5)]
    for corpus in (build([table], group="author"), *of_folds):
        where = [{author[i] for i in ids(corpus, split)} for split in SPLITS]
        assert not where[0] & where[1] and not where[1] & where[2] and not where[0] & where[2]
        assert corpus.warnings == ()
    assert sorted(i for corpus in of_folds for i in ids(corpus, "test")) == sorted(author), "each text is test once"
    test = rows({"a": 2}, first=500, author="w1")
    carved = build([table, test], TRAIN_TEST, group="author")
    names = [{author[i.replace("train", "row")] for i in ids(carved, split)} for split in ("train", "val")]
    assert not names[0] & names[1] and 8 <= len(carved.splits["val"]) <= 16
    assert carved.warnings == ("table: 1 groups of data.group=author occur in more than one split",)
    assert "label 'b' has 2 groups, but each label needs at least 3" in refused(
        [[row | {"author": "x" if row["label"] == "b" and i % 2 else "y" if row["label"] == "b" else str(i % 9)}
          for i, row in enumerate(table)]],
        group="author",
    )  # fmt: skip


# Labels


def test_spellings_of_one_label() -> None:
    table = rows({"Sport": 10, "sport": 20, " ＳＰＯＲＴ": 5, "news": 10, "film ": 10})
    found = build([table])
    assert len(found.labels) == 5 and found.warnings == (
        "table: labels differ in case, width or surrounding blanks only: ' ＳＰＯＲＴ', 'Sport', 'sport'. "
        "data.normalize_labels=true merges them",
        "table: labels have surrounding blanks: 'film '. data.normalize_labels=true removes them",
    )
    merged = build([table], normalize_labels=True)
    assert merged.labels == ("film", "news", "sport") and merged.warnings == ()
    assert sum(counts(merged, split)["sport"] for split in SPLITS) == 35


@pytest.mark.parametrize(("keys", "needed"), [({}, 3), ({"folds": 5}, 5)])
def test_rare_labels(keys: dict[str, object], needed: int) -> None:
    table = rows({"a": 30, "b": 30, "c": 1, "d": needed - 1})
    message = refused([table], **keys)
    assert f"2 labels have too few texts ('c' 1, 'd' {needed - 1}), but" in message
    assert "try data.rare_labels=keep, drop or merge" in message
    kept = build([table], rare_labels="keep", **keys)
    assert kept.labels == ("a", "b", "c", "d") and counts(kept, "train")["d"] == needed - 1
    assert sum(len(kept.splits[split]) for split in SPLITS) == len(table) and "c" not in counts(kept, "test")
    dropped = build([table], rare_labels="drop", **keys)
    assert dropped.labels == ("a", "b") and sum(len(dropped.splits[split]) for split in SPLITS) == 60
    merged = build([table], rare_labels="merge", other_label="misc", **keys)
    assert merged.labels == ("a", "b", "misc") and all("misc" in counts(merged, split) for split in SPLITS)
    for corpus, rest in (
        (kept, "all their texts are training texts (data.rare_labels=keep)"),
        (dropped, "their texts are left out (data.rare_labels=drop)"),
        (merged, "they are one label, 'misc' (data.rare_labels=merge)"),
    ):
        assert corpus.warnings[0] == f"table: too few texts of 'c', 'd': {rest}"
    assert len({corpus.digest for corpus in (kept, dropped, merged)}) == 3


def test_rare_labels_that_are_still_rare_when_merged() -> None:
    table = rows({"a": 30, "b": 30, "c": 1})
    assert "label 'other' has 1 text, but" in refused([table], rare_labels="merge")


@pytest.mark.parametrize(("n", "end"), [(100, "'l98' 1, 'l99' 1), but"), (101, "'l08' 1, 'l09' 1 and 91 more), but")])
def test_all_rare_labels_are_named_unless_the_column_is_a_wrong_one(n: int, end: str) -> None:
    many = rows({f"l{i:02d}": 1 for i in range(n)} | {"a": 9, "b": 9})
    assert end in refused([many])
    assert end.replace(" 1", "").partition(")")[0] in build([many], rare_labels="drop").warnings[0]


def test_labels_of_given_splits() -> None:
    tables = [rows({"a": 5, "b": 5, "c": 1}), rows({"a": 1, "c": 1}, first=50), rows({"b": 1, "z": 2}, first=90)]
    message = refused(tables, ALL_THREE)
    assert "row 2 has the label 'z', which no training text has, and 1 more rows have such labels ('z')" in message
    assert "Add texts of it to train.csv" in message
    assert "row 2 has the label 'z', which no" in refused(
        [rows({"a": 5, "b": 5}), tables[2]], TRAIN_TEST, rare_labels="merge"
    )


def test_drop_and_merge_treat_all_given_splits_alike() -> None:
    tables = [rows({"a": 5, "b": 5, "c": 1}), rows({"a": 1, "c": 1}, first=50), rows({"b": 1, "z": 2}, first=90)]
    dropped = build(tables, ALL_THREE, rare_labels="drop")
    assert [counts(dropped, split) for split in SPLITS] == [{"a": 5, "b": 5}, {"a": 1}, {"b": 1}]
    merged = build(tables, ALL_THREE, rare_labels="merge")
    assert [counts(merged, split) for split in SPLITS] == [
        {"a": 5, "b": 5, "other": 1}, {"a": 1, "other": 1}, {"b": 1, "other": 2},
    ]  # fmt: skip
    carved = build([tables[0], tables[2]], TRAIN_TEST, rare_labels="drop")
    assert [set(counts(carved, split)) for split in SPLITS] == [{"a", "b"}, {"a", "b"}, {"b"}]


def test_the_order_of_the_labels() -> None:
    table = rows({"bad": 10, "fair": 10, "good": 10})
    assert build([table], label_order=["good", "fair", "bad"]).labels == ("good", "fair", "bad")
    assert build([table], label_order=["good", "fair", "bad"]).digest == build([table]).digest
    message = refused([table], label_order=["good", "bad", "bad", "poor"])
    assert "data.label_order lacks 'fair' and has 'poor', which no training text has and has 'bad' twice." in message


def test_names_of_labels() -> None:
    table = [row | {"label": {"neg": 0.0, "pos": 1}[row["label"]]} for row in rows({"neg": 10, "pos": 10})]
    found = [build([table], label_names=names) for names in (["neg", "pos"], {0: "neg", "1": "pos"})]
    assert found[0] == found[1] == build([rows({"neg": 10, "pos": 10})])
    assert "data.label_names has no name for '1' (row 11 of column 'label'). Add it" in refused(
        [table], label_names=["neg"]
    )


def test_labels_of_other_texts_are_those_of_the_run() -> None:
    given_keys = {"name": "table", "cache_dir": "c", "file": "t.csv", "text": "text", "label": "label"}
    config = DataConfig.model_validate(given_keys | {"label_names": ["neg", "pos"]})
    assert match_labels(["0", "pos", "x", "POS"], ("neg", "pos"), config) == ["neg", "pos", "x", "POS"]
    config = DataConfig.model_validate(given_keys | {"normalize_labels": True})
    assert match_labels([" ＰＯＳ", "x"], ("neg", "Pos"), config) == ["Pos", "x"]


# Texts


def test_rows_without_text() -> None:
    table = rows({"a": 12, "b": 12})
    table[3]["text"], table[7]["text"] = " ", None
    assert "row 4 of column 'text' is empty (and 1 more rows)." in refused([table])
    kept = build([table], on_empty="keep")
    assert sum(len(kept.splits[split]) for split in SPLITS) == 24
    skipped = build([table], on_empty="skip")
    assert {i for split in SPLITS for i in ids(skipped, split)} == {
        f"row-{i + 1}" for i in range(24) if i not in (3, 7)
    }
    assert skipped.warnings[0] == "table: 2 of 24 rows of t.csv have no text and are left out (data.on_empty=skip)"
    pairs = [row | {"other": "x" if i == 3 else ""} for i, row in enumerate(table)]
    found = refused([pairs], text=["text", "other"])
    assert "row 8 of columns 'text', 'other' is empty." in found, "a pair is empty where both of its texts are"


def test_repeated_texts_are_counted() -> None:
    tables = [rows({"a": 5, "b": 5}), rows({"a": 1}, first=50), rows({"b": 2}, first=60)]
    tables[0][9]["text"] = tables[0][0]["text"]
    tables[2][0]["text"] = tables[0][1]["text"]
    tables[2][1]["text"] = tables[1][0]["text"]
    assert build(tables, ALL_THREE).warnings == (
        "table: 2 texts occur in more than one split, so the scores are too high",
        "table: 3 texts occur with more than one label, for example 'a', 'b'",
    )


def test_pairs_are_equal_where_both_texts_are() -> None:
    """As in JSICK, where one premise has several hypotheses."""
    table = [
        {"premise": f"a {i % 5}", "hypothesis": f"b {i}", "label": ["entailment", "neutral"][i % 2]} for i in range(40)
    ]
    found = build([table], text=["premise", "hypothesis"])
    assert found.warnings == () and found.columns == ("premise", "hypothesis")
    text = found.splits["val"][0]
    assert text.columns == (("premise", text.columns[0][1]), ("hypothesis", text.columns[1][1])) and text.body == ""
    swapped = build([table], text=["hypothesis", "premise"])
    assert swapped.digest != found.digest, "the order of the pair is part of the texts"
    changed = [dict(row) for row in table]
    changed[0]["premise"] = "another"
    assert build([changed], text=["premise", "hypothesis"]).digest != found.digest
