"""Data sets of the hub: splits, subsets, classes by name, and the messages for what cannot be used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import SPLITS, Corpus
from llm_cls.data.sources.hub import choose_splits, load_hub
from llm_cls.errors import ConfigError, DataError

from .hub_server import COMMIT, hub_of

datasets = pytest.importorskip("datasets")
CARD = """---
configs:
- config_name: ja
  data_files:
  - {split: train, path: ja/train.csv}
  - {split: dev, path: ja/dev.csv}
  - {split: test, path: ja/test.csv}
  sep: ';'
- config_name: en
  data_files:
  - {split: train, path: en.jsonl}
dataset_info:
- config_name: ja
  features:
  - {name: text, dtype: string}
  - name: label
    dtype:
      class_label:
        names: {'0': いいえ, '1': はい}
---
"""


def config(folder: Path | str, **keys: object) -> DataConfig:
    given = {"name": "hub", "cache_dir": "cache", "dataset": str(folder), "text": "text", "label": "label"}
    return DataConfig.model_validate(given | keys)


def contents(corpus: Corpus) -> dict[str, list[tuple[str, str, str]]]:
    return {split: [(text.id, text.label, text.body) for text in corpus.splits[split]] for split in SPLITS}


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """A folder as the hub has them: one file per split, classes as ClassLabel."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    (folder := tmp_path / "set").mkdir()
    for split, n in (("train", 6), ("validation", 2), ("test", 2)):
        rows = [{"text": f"{split} {i}", "label": i % 2} for i in range(n)]
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_splits_and_classes_are_those_of_the_data_set(parquet: Path) -> None:
    assert contents(load_hub(config(parquet))) == {
        split: [(f"{split}-{i + 1}", ("neg", "pos")[i % 2], f"{name} {i}") for i in range(n)]
        for split, name, n in (("train", "train", 6), ("val", "validation", 2), ("test", "test", 2))
    }


def test_the_rows_are_those_of_the_datasets_library(parquet: Path) -> None:
    loaded = datasets.load_dataset(str(parquet))
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        names = loaded[name].features["label"].names
        expected = [(row["text"], names[row["label"]]) for row in loaded[name]]
        assert [(body, label) for _, label, body in contents(load_hub(config(parquet)))[split]] == expected


def test_the_digest_is_that_of_the_same_rows_in_files(parquet: Path, tmp_path: Path) -> None:
    from llm_cls.data.sources.table import load_table

    files = {}
    for split, texts in contents(load_hub(config(parquet))).items():
        files[f"{split}_file"] = tmp_path / f"{split}.jsonl"
        lines = [json.dumps({"text": body, "label": label}) for _, label, body in texts]
        files[f"{split}_file"].write_text("\n".join(lines))
    given = {"name": "table", "cache_dir": tmp_path, "text": "text", "label": "label"}
    assert load_table(DataConfig.model_validate(given | files)).digest == load_hub(config(parquet)).digest


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A folder with two subsets that its card describes."""
    (folder := tmp_path / "card").mkdir()
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "ja").mkdir()
    for split in ("train", "dev", "test"):
        (folder / "ja" / f"{split}.csv").write_text("text;label\n007;0\nNA;1\n2020-01-01;0\n1e3;1\n")
    values = ["2020-01-01", "007", "true"]
    lines = [json.dumps({"text": f"a {i}", "label": values[i % 3]}) for i in range(30)]
    (folder / "en.jsonl").write_text("\n".join(lines))
    return folder


def test_subset_of_csv_files_with_classes_from_the_card(card: Path) -> None:
    found = contents(load_hub(config(card, subset="ja")))
    expected = [("007", "いいえ"), ("NA", "はい"), ("2020-01-01", "いいえ"), ("1e3", "はい")]
    assert {split: [(body, label) for _, label, body in texts] for split, texts in found.items()} == dict.fromkeys(
        SPLITS, expected
    )


def test_a_data_set_of_one_split_is_split_and_its_values_stay_strings(card: Path) -> None:
    corpus = load_hub(config(card, subset="en"))
    assert corpus.labels == ("007", "2020-01-01", "true")
    assert {split: len(texts) for split, texts in corpus.splits.items()} == {"train": 24, "val": 3, "test": 3}


def test_splits_can_be_chosen(card: Path) -> None:
    chosen = config(card, train_split="test", val_split="train", test_split="dev")
    assert choose_splits(chosen, ["train", "dev", "test"]) == {"train": "test", "val": "train", "test": "dev"}
    assert choose_splits(config(card), ["all"]) == {"": "all"}
    assert choose_splits(config(card), ["train", "test"]) == {"train": "train", "test": "test"}


def test_a_data_set_without_val_gets_a_tenth_of_train(card: Path) -> None:
    (card / "README.md").write_text(CARD.replace("  - {split: dev, path: ja/dev.csv}\n", ""), encoding="utf-8")
    (card / "ja" / "train.csv").write_text("text;label\n" + "".join(f"t{i};{i % 2}\n" for i in range(40)))
    corpus = load_hub(config(card, subset="ja"))
    assert {split: len(texts) for split, texts in corpus.splits.items()} == {"train": 36, "val": 4, "test": 4}


@pytest.mark.parametrize(
    ("keys", "known", "part"),
    [
        ({}, ["a", "b"], "has no split 'train', only 'a', 'b'. Try data.train_split=NAME"),
        ({"folds": 5}, ["train", "test"], "data.folds is for a data set of one split, but set has train, test. Leave"),
    ],
)
def test_splits_that_are_refused(keys: dict[str, object], known: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_splits(config("set", **keys), known)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({}, "has 2 subsets: 'ja', 'en'. Try data.subset=ja"),
        ({"subset": "de"}, "Try data.subset=NAME"),
        ({"subset": "ja", "val_split": "tset"}, "has no such split. Did you mean 'test'?"),
        ({"subset": "ja", "revision": "main"}, "data.revision=main is for data sets on the hub"),
        ({"dataset": "n" * 300}, "data.dataset=nnn"),
        ({"dataset": "./no/such/folder"}, "data.dataset=./no/such/folder is no folder and no hub id"),
        ({"dataset": "no/such-set"}, "data.dataset=no/such-set is not in the local cache"),
    ],
)
def test_data_sets_that_cannot_be_found(
    card: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, object], part: str
) -> None:
    monkeypatch.setattr("llm_cls.data.sources.hub.hub_is_reachable", lambda: False)
    with pytest.raises(ConfigError) as caught:
        load_hub(config(card, **keys))
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("train.txt", "a", "files of the kind 'text' are not read. Convert them to Parquet"),
        (
            "train.csv",
            "text;label\na;b\n",
            "has no column 'label'. Did you mean 'text;label'? It has 'text;label'. Try 'data.separator=\";\"'",
        ),
        ("train.csv", 'text,label\n"a,b\n', "train.csv could not be read as csv: line 2 opens a double quote"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str, part: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        load_hub(config(tmp_path))
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_card_that_chooses_rows_is_refused(card: Path) -> None:
    (card / "README.md").write_text(CARD.replace("sep: ';'", "sep: ';'\n  skiprows: 1"), encoding="utf-8")
    with pytest.raises(DataError, match=r"its card sets skiprows, which is not supported\. Download it, and try"):
        load_hub(config(card, subset="ja"))


def test_class_without_a_name(parquet: Path) -> None:
    (parquet / "README.md").write_text(CARD.replace("ja/train.csv", "t.csv").replace("sep: ';'", ""))
    (parquet / "t.csv").write_text("text,label\na,0\nb,2\n")
    (parquet / "ja").mkdir()
    for split in ("dev", "test"):
        (parquet / "ja" / f"{split}.csv").write_text("text,label\na,0\n")
    with pytest.raises(DataError, match="row 2 of column 'label' has class 2, but there are names for 2 classes"):
        load_hub(config(parquet, subset="ja"))


PROGRAM = """
from llm_cls.config.schema import DataConfig
from llm_cls.data.sources.hub import load_hub
from llm_cls.errors import LlmClsError

for keys in ({}, {"revision": "main"}, {"subset": "de"}, {"dataset": "org/none"}, {"revision": "nosuch"}):
    given = {"name": "hub", "cache_dir": "x", "dataset": "org/set", "subset": "ja", "text": "text", "label": "label"}
    try:
        print(load_hub(DataConfig(**given | keys)).digest)
    except LlmClsError as error:
        print(error)
"""


def test_a_private_data_set_of_the_hub_with_and_without_a_network(card: Path, tmp_path: Path) -> None:
    """Only the files of the subset are downloaded, and the cache is enough from then on."""
    files = {path.relative_to(card).as_posix(): path.read_bytes() for path in card.rglob("*") if path.is_file()}
    expected = load_hub(config(card, subset="ja")).digest
    variables = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"HF_HOME": str(tmp_path / "home")}

    def lines(**more: str) -> list[str]:
        line = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(line, env=variables | more, capture_output=True, text=True, check=True)
        assert not done.stderr
        return done.stdout.splitlines()

    with hub_of("org/set", files, "hf_token") as (address, answered):
        first, again, subset, unknown, revision = lines(HF_ENDPOINT=address, HF_TOKEN="hf_token")
    assert first == again == expected
    assert subset.startswith("org/set: BuilderConfig 'de' not found. Available: ['ja', 'en']. Try data.subset=")
    assert unknown.startswith(
        "data.dataset: the hub has no data set 'org/none', or it is private. Check the id, or run"
    )
    assert revision == "data.revision=nosuch: org/set has no such revision. Check it"
    asked = {line.rpartition("/")[2] for line in answered}
    assert asked >= {"README.md", "train.csv", "dev.csv", "test.csv"} and "en.jsonl" not in asked

    first, again, _, unknown, revision = lines(HF_HUB_OFFLINE="1")
    assert first == again == expected
    assert unknown.startswith(
        "data.dataset=org/none is not in the local cache and could not be downloaded from the hub."
    )
    assert (tmp_path / "home" / "hub" / "datasets--org--set" / "refs" / "main").read_text() == COMMIT


def test_a_missing_package_is_one_line(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"data=hub needs datasets\. Install it with: pip install"):
        load_hub(config(card))
