"""The registry of corpora."""

import inspect
from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data.load import read_corpus
from llm_cls.data.sources import SOURCES, find_source
from llm_cls.errors import ConfigError

CHOICES = Path(__file__).resolve().parents[4] / "conf" / "data"


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
