"""What is checked of every corpus, whichever it is."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data import load
from llm_cls.data.corpus import SPLITS, Corpus, Text, digest_splits
from llm_cls.data.load import load_corpus
from llm_cls.errors import ConfigError, DataError
from tests.integration.conftest import write_archive


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    """24 texts of two labels: 20 of them for training."""
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(f"t{i},{'xy'[i % 2]}\n" for i in range(24)), encoding="utf-8")
    return {"name": "table", "cache_dir": tmp_path / "cache", "file": path, "text": "text", "label": "label"}


@pytest.mark.parametrize("batch_size", [32, 21])
def test_batch_larger_than_the_training_split(table: dict[str, Any], batch_size: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load_corpus(DataConfig(**table, batch_size=batch_size))
    expected = f"data.batch_size must be <= the number of training texts (20), got {batch_size}. Try data.batch_size=16"
    assert str(caught.value) == expected


def test_batch_of_all_training_texts_is_fine(table: dict[str, Any]) -> None:
    assert len(load_corpus(DataConfig(**table, batch_size=20)).splits["train"]) == 20


def test_a_limit_samples_every_split_and_is_another_corpus(table: dict[str, Any]) -> None:
    whole, short, again, other = (
        load_corpus(DataConfig(**table | {"batch_size": 1} | keys))
        for keys in ({}, {"limit": 4}, {"limit": 4}, {"limit": 4, "split_seed": 7})
    )
    assert short == again and short.labels == ("x", "y")
    assert [len(short.splits[s]) for s in SPLITS] == [4, 2, 2]
    assert all(set(short.splits[s]) <= set(whole.splits[s]) for s in SPLITS)
    assert Counter(text.label for text in short.splits["train"]) == {"x": 2, "y": 2}
    assert short.digest == digest_splits(short.splits) and len({whole.digest, short.digest, other.digest}) == 3
    assert load_corpus(DataConfig(**table, batch_size=1, limit=20)) == whole, "no text is left out"


def test_split_without_texts(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.tar.gz", per_label=3)  # nine texts: none is left for the last portion
    config = DataConfig(name="livedoor", cache_dir=tmp_path, archive=archive, batch_size=1)
    with pytest.raises(DataError, match=r"livedoor: the test split has no texts"):
        load_corpus(config)


@pytest.mark.parametrize(
    ("ids", "labels", "known", "message"),
    [
        ("123", "aaa", "a", "new: expected at least two labels, found 1. Add texts with another label"),
        ("121", "aba", "ab", "new: ids must be unique, but '1' occurs twice in train. Rename one"),
        (
            "123",
            "abc",
            "ab",
            "new: the label 'c' in train is not one of the labels of the corpus. Remove its texts, or ",
        ),
    ],
)
def test_faults_that_every_source_could_have_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: str, labels: str, known: str, message: str
) -> None:
    texts = [Text(i, label, "", "body") for i, label in zip(ids, labels, strict=True)]
    corpus = Corpus("new", tuple(known), dict.fromkeys(SPLITS, texts), "digest", has_titles=False)
    monkeypatch.setattr(load, "find_source", lambda _: lambda _: corpus)
    with pytest.raises(DataError) as caught:
        load.read_corpus(DataConfig(name="new", cache_dir=tmp_path))
    assert str(caught.value).startswith(message)
