"""The registry of corpora."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_cls.config.schema import DataConfig
from llm_cls.data import load
from llm_cls.data.load import read_corpus
from llm_cls.data.sources import SOURCES, find_source
from llm_cls.errors import ConfigError

ROOT = Path(__file__).resolve().parents[4]
CHOICES = ROOT / "conf" / "data"


def test_every_source_has_a_choice_and_every_choice_a_source() -> None:
    assert sorted(SOURCES) == sorted(path.stem for path in CHOICES.glob("*.yaml"))


@pytest.mark.parametrize("name", SOURCES)
def test_source_is_a_function_of_the_configuration(name: str) -> None:
    first, *others = inspect.signature(find_source(name)).parameters.values()
    assert first.annotation is DataConfig and all(p.default is not p.empty for p in others)


@pytest.mark.parametrize(
    ("name", "hint"), [("livedor", "Did you mean 'livedoor'?"), ("zzz", f"Known: {', '.join(SOURCES)}.")]
)
def test_unknown_name_is_answered_with_the_nearest(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_corpus(DataConfig(name=name, cache_dir=tmp_path))
    assert str(caught.value) == f"data.name={name} is not a corpus. {hint}"


def test_the_documented_corpus_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    code, choice = (re.search(rf"```{kind}\n(.*?)```", guide, re.DOTALL) for kind in ("python", "yaml"))
    assert code is not None and choice is not None
    module: dict[str, Any] = {}
    exec(compile(code.group(1), "docs/data.md", "exec"), module)
    monkeypatch.setattr(load, "find_source", lambda name: module[f"load_{name}"])
    for label in ("x", "y"):
        rows = "".join(f"{label}{i}\n" for i in range(20))
        (tmp_path / f"{label}.tsv").write_text(f"text\n{rows}", encoding="utf-8")
    values = {key: value for key, value in yaml.safe_load(choice.group(1)).items() if key != "defaults"}
    corpus = read_corpus(DataConfig(**values | {"file": tmp_path, "cache_dir": tmp_path}))
    assert corpus.labels == ("x", "y")
    assert {split: len(texts) for split, texts in corpus.splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert all(text.body.startswith(text.label) for texts in corpus.splits.values() for text in texts)
    with pytest.raises(ConfigError, match="must be a folder"):
        read_corpus(DataConfig(**values | {"file": tmp_path / "x.tsv", "cache_dir": tmp_path}))
