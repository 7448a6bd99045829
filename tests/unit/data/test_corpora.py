"""Splits, the two corpora, and the user's tables."""

import random
from collections import Counter
from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import SPLITS, Corpus, Text, texts_in_two_splits
from llm_cls.data.load import load_corpus
from llm_cls.data.split import portions, reference_split, stratified_split
from llm_cls.data.table import read_rows
from llm_cls.errors import ConfigError, DataError


def texts(n: int, labels: str = "ab") -> list[Text]:
    return [Text(f"t{i:04d}", labels[i % len(labels)], "", f"text {i}") for i in range(n)]


@pytest.mark.parametrize("n", [10, 11, 17, 19, 25, 101, 7367])
def test_reference_split(n: int) -> None:
    given = texts(n)
    splits = reference_split(given, 42)
    sizes = [n // 10 + (i < n % 10) for i in range(10)]
    assert [len(splits[s]) for s in SPLITS] == [sum(sizes[:8]), sizes[8], sizes[9]]
    assert Counter(t.id for split in splits.values() for t in split) == Counter(t.id for t in given)
    shuffled = random.Random(1).sample(given, n)
    assert reference_split(shuffled, 42) == splits, "the order in which files are listed changes nothing"
    oracle = sorted(given, key=lambda t: t.id)
    random.Random(42).shuffle(oracle)
    assert [t for s in SPLITS for t in splits[s]] == oracle
    assert reference_split(given, 7) != splits


@pytest.mark.parametrize("n", [6, 7, 20, 61, 200])
def test_stratified_split(n: int) -> None:
    given = texts(n)
    splits = stratified_split(given, 42, "t.csv")
    assert Counter(t.id for split in splits.values() for t in split) == Counter(t.id for t in given)
    assert all({t.label for t in split} == {"a", "b"} for split in splits.values())
    if n >= 20:
        for label in "ab":
            m = sum(t.label == label for t in given)
            assert sum(t.label == label for t in splits["train"]) == portions(m)[0]


def test_the_real_corpus(shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "ldcc-20140209.tar.gz"
    corpus = load_corpus(DataConfig(name="livedoor", cache_dir=tmp_path, archive=archive))
    assert corpus.digest == "2e3468d1e4d4fa85db82272d5a3764e608ea7d1219ffb94030b40ab3355c9d53"
    assert [len(corpus.splits[s]) for s in SPLITS] == [5895, 736, 736]
    assert corpus.warnings == () and len(corpus.labels) == 9
    assert not list(tmp_path.iterdir()), "nothing is unpacked"
    some = [t for split in corpus.splits.values() for t in split]
    assert all(t.title and t.body and "　" not in (t.title + t.body)[:1] for t in some)


def test_the_sample_is_what_it_says(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    corpus = load_corpus(DataConfig(name="sample", cache_dir=tmp_path))
    everything = [t for s in SPLITS for t in corpus.splits[s]]
    assert len(everything) >= 600 and len(corpus.labels) == 9
    assert all(t.title and 80 <= len(t.body) <= 300 for t in everything)
    assert texts_in_two_splits(corpus.splits) == 0 and len({t.body for t in everything}) == len(everything)
    words = {word for label in corpus.labels for word in (label, *label.split("-")) if len(word) > 2}
    assert not [t for t in everything if any(word in (t.title + t.body).lower() for word in words)]
    x = {s: [f"{t.title}\n{t.body}" for t in corpus.splits[s]] for s in SPLITS}
    y = {s: [t.label for t in corpus.splits[s]] for s in SPLITS}
    tfidf = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    classical = LogisticRegression(C=10, max_iter=1000).fit(tfidf.fit_transform(x["train"]), y["train"])
    f1 = f1_score(y["test"], classical.predict(tfidf.transform(x["test"])), average="macro")
    assert 0.80 <= f1 <= 0.97, "neither trivial nor hopeless"
    assert f1 == pytest.approx(0.952, abs=0.005), "the figure that its README states"


def test_the_sample_is_what_its_material_gives() -> None:
    from llm_cls.assets.sample.compose import FOLDER, compose
    from llm_cls.files import read_jsonl

    assert compose() == read_jsonl(FOLDER / "sample.jsonl")


def table(tmp_path: Path, name: str, content: str | bytes, **keys: object) -> Corpus:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    given = {"text": "text", "label": "label", "batch_size": 2} | keys
    return load_corpus(DataConfig.model_validate({"name": "table", "cache_dir": tmp_path / "c", "file": path, **given}))


def everything(corpus: Corpus) -> dict[str, tuple[str, str]]:
    return {t.id: (t.label, t.body) for s in SPLITS for t in corpus.splits[s]}


ROWS = [
    ("007", 'カンマ, と "引用" と\n改行'),
    ("1", "NA"),
    ("1", "null"),
    ("007", "None"),
    ("007", "1.50"),
    ("1", " 空白 "),
]
EXPECTED = {f"row-{i + 1}": row for i, row in enumerate(ROWS)}


def test_csv_and_tsv_hold_text_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quoted = [f'{label}{{0}}"{text.replace(chr(34), chr(34) * 2)}"' for label, text in ROWS]
    csv = "label,text\n" + "\n".join(q.format(",") for q in quoted) + "\n"
    tsv = "label\ttext\n" + "\n".join(q.format("\t") for q in quoted) + "\n"
    assert everything(table(tmp_path, "a.csv", csv)) == EXPECTED
    assert everything(table(tmp_path, "b.csv", b"\xef\xbb\xbf" + csv.encode())) == EXPECTED
    assert everything(table(tmp_path, "a.tsv", tsv)) == EXPECTED
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""


def test_jsonl_and_parquet(tmp_path: Path) -> None:
    import pandas

    frame = pandas.DataFrame(ROWS, columns=["label", "text"])
    frame.to_parquet(tmp_path / "p.parquet")
    frame.to_json(tmp_path / "j.jsonl", orient="records", lines=True, force_ascii=False)
    for name in ("p.parquet", "j.jsonl"):
        assert everything(table(tmp_path, name, (tmp_path / name).read_bytes())) == EXPECTED


def test_numbers_as_labels(tmp_path: Path) -> None:
    lines = "\n".join(f'{{"label": {i % 2}, "text": "t{i}"}}' for i in range(12))
    assert table(tmp_path, "n.jsonl", lines).labels == ("0", "1")


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for letter in "ab":
        path.write_text(f"text\n{letter}\n")
        assert read_rows(path, tmp_path / "c") == [{"text": letter}]


GOOD = "text,label\n" + "".join(f"t{i},{'xy'[i % 2]}\n" for i in range(12))


@pytest.mark.parametrize(
    ("name", "content", "keys", "part"),
    [
        ("t.xlsx", "", {}, "must end with .csv"),
        ("t.csv", "", {}, "the file is empty"),
        ("t.csv", "text,label\n", {}, "no rows"),
        ("t.csv", "text,text\na,b\n", {}, "occurs twice"),
        ("t.csv", GOOD, {"label": "lable"}, "Did you mean 'label'?"),
        ("t.csv", GOOD + ",x\n", {}, "row 13 of column 'text' is empty"),
        ("t.csv", GOOD + "a,\n", {}, "row 13 of column 'label' is empty"),
        ("t.csv", GOOD, {"id": "label"}, "must be unique"),
        ("t.csv", b"text,label\n\xff\xfe,x\n", {}, "must be UTF-8"),
        ("t.csv", GOOD + "a,b,c,d\n", {}, "can't be read as csv"),
        ("t.jsonl", '{"text": "a"\n', {}, "can't be read as json"),
        ("t.jsonl", '{"text": ["a"], "label": "x"}\n', {}, "must be one value"),
        ("t.parquet", "not parquet", {}, "can't be read as parquet"),
        ("t.csv", GOOD + "z,rare\n", {}, "label 'rare' has 1 text,"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, content: str | bytes, keys: dict[str, object], part: str) -> None:
    with pytest.raises(DataError) as caught:
        table(tmp_path, name, content, **keys)
    assert part in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


def test_text_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    same = "text,label\n" + "".join(f"{'same' if i < 9 else i},{'xy'[i % 2]}\n" for i in range(40))
    assert any("more than one split" in w for w in table(tmp_path, "t.csv", same).warnings)


def test_batch_larger_than_the_training_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training texts \(8\), got 32. Try data.batch_size=8"):
        table(tmp_path, "t.csv", GOOD, batch_size=32)
