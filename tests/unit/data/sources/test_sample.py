"""The shipped sample, and its reader on a small file."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import SPLITS, texts_in_two_splits
from llm_cls.data.load import load_corpus
from llm_cls.data.sources.sample import load_sample
from llm_cls.errors import ArtifactError

ROWS = [{"id": f"t{i:02d}", "label": "ba"[i % 2], "title": f"題{i}", "body": f"文{i}\n続き"} for i in range(25)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_reads_and_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", ROWS)
    corpus = load_sample(DataConfig(name="sample", cache_dir=tmp_path), path)
    ids = [row["id"] for row in ROWS]
    random.Random(42).shuffle(ids)
    assert [[t.id for t in corpus.splits[s]] for s in SPLITS] == [ids[:21], ids[21:23], ids[23:]]
    assert (corpus.name, corpus.labels, corpus.has_titles) == ("sample", ("a", "b"), True)
    assert corpus.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = {t.id: {"id": t.id, "label": t.label, "title": t.title, "body": t.body} for t in corpus.splits["train"]}
    assert found == {row["id"]: row for row in ROWS if row["id"] in found}


def test_split_depends_on_the_seed_and_not_on_the_order(tmp_path: Path) -> None:
    path, other = write(tmp_path / "s.jsonl", ROWS), write(tmp_path / "r.jsonl", ROWS[::-1])
    config = DataConfig(name="sample", cache_dir=tmp_path)
    assert load_sample(config, path).splits == load_sample(config, other).splits
    reseeded = config.model_copy(update={"split_seed": 1})
    assert load_sample(config, path).splits != load_sample(reseeded, path).splits


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"id": "x", "label"', "EOF"),
        (b"[1, 2]", "object"),
        (b'{"id": "x", "label": "a", "title": "t"}', "body is missing"),
        (b'{"id": 7, "label": "a", "title": "t", "body": "b"}', "id must be a valid string, got 7"),
        (b'{"id": "\xff", "label": "a", "title": "t", "body": "b"}', "invalid unicode"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, fault: str) -> None:
    path = write(tmp_path / "s.jsonl", ROWS[:2])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ArtifactError, match=f"s.jsonl, line 3, is damaged: .*{fault}.* Install llm_cls again$"):
        load_sample(DataConfig(name="sample", cache_dir=tmp_path), path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"s.jsonl is missing. Install llm_cls again"):
        load_sample(DataConfig(name="sample", cache_dir=tmp_path), tmp_path / "s.jsonl")


def test_shipped_sample_is_as_its_readme_says(tmp_path: Path) -> None:
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
    assert f1 == pytest.approx(0.952, abs=0.005), "the figure that its README states"


def test_shipped_sample_is_composed_of_its_material() -> None:
    from llm_cls.assets.sample.compose import FOLDER, compose
    from tests.jsonl import read_jsonl

    assert compose() == read_jsonl(FOLDER / "sample.jsonl")
