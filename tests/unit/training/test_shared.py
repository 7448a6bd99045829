"""What the runs of a sweep share, and what one of them must have for itself."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from llm_cls.config.schema import Config
from llm_cls.data import datamodule
from llm_cls.training.shared import Shared, freeze_libraries
from tests.unit.config.test_schema import parse


def config(cache: Path, *overrides: str) -> Config:
    return parse("experiment=quickstart", "data.limit=16", "data.batch_size=8", f"data.cache_dir={cache}", *overrides)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each split that is tokenized or read from the cache."""
    made = datamodule.tokenize_cached
    read: list[int] = []

    def note(pieces: list[tuple[str, ...]], *arguments: object) -> object:
        read.append(len(pieces))
        return made(pieces, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(datamodule, "tokenize_cached", note)
    return read


def test_a_corpus_is_tokenized_once_for_each_template_and_length(tmp_path: Path, read: list[int]) -> None:
    shared = Shared()
    for repeated in range(2):
        for template in ("template=0", "template=1", "template=2"):
            own = config(tmp_path, template, f"optimizer.lr={repeated + 1}e-3")
            corpus, (_, _, tokenizer) = shared.corpus(own.data), shared.model(own.model)
            alone = datamodule.tokenize_corpus(corpus, tokenizer, own.template, own.data)
            del read[-3:]
            kept = shared.tokenized(corpus, tokenizer, own)
            assert all((kept.tokens[split].ids == tokens.ids).all() for split, tokens in alone.tokens.items())
            assert kept.per_character == alone.per_character
        assert len(read) == 3 * 3, "three splits in three templates"
    shorter = config(tmp_path, "template=2", "data.max_length=32")
    assert max(shared.tokenized(corpus, tokenizer, shorter).tokens["train"].lengths) == 32
    shared.tokenized(corpus, tokenizer, config(tmp_path, "template=2", "data.batch_size=4", "data.eval_batch_size=4"))
    assert len(read) == 12, "batches are made of the same tokens"


def test_a_corpus_that_was_read_anew_is_tokenized_anew(tmp_path: Path, read: list[int]) -> None:
    """Its files may have changed."""
    shared, own = Shared(), config(tmp_path)
    corpus, (_, _, tokenizer) = shared.corpus(own.data), shared.model(own.model)
    before = shared.tokenized(corpus, tokenizer, own)
    fewer = replace(corpus, splits={**corpus.splits, "train": corpus.splits["train"][:8]})
    assert len(shared.tokenized(fewer, tokenizer, own).tokens["train"]) == 8
    assert len(shared.tokenized(corpus, tokenizer, own).tokens["train"]) == len(before.tokens["train"]) == 16
    assert len(read) == 9


def test_what_an_earlier_run_left_in_cycles_is_not_frozen() -> None:
    """As where Ray gives a process one run after another."""
    left = Shared()
    left._kept["itself"] = ("", left)
    gone = weakref.ref(left)
    del left
    freeze_libraries()
    assert gone() is None and gc.get_freeze_count() > 0
