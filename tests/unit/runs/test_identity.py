"""Every key of the configuration counts, or is listed with a reason."""

from functools import cache
from typing import Any

import pytest

from llm_cls.config.compose import compose_tree
from llm_cls.config.schema import Config, keys, parse_config
from llm_cls.files import sha256_json
from llm_cls.runs.identity import (
    FACTS,
    NEUTRAL,
    NO_EFFECT,
    RESOLVED,
    Facts,
    changes_result,
    differences,
    identity,
    run_id,
    settings,
    text_id,
)
from tests.unit.config.different_values import changed, different_value

FACT_VALUES = Facts("d" * 64, {"train": 8, "val": 1, "test": 1}, None, "sha256:0", ("f" * 64, None, 2), "32-true")
KEYS = keys()


def config(**overrides: Any) -> Config:
    """The quickstart's configuration, with other values."""
    return _composed(*(f"{key}={value}" for key, value in overrides.items()))


@cache
def _composed(*overrides: str) -> Config:
    return parse_config(compose_tree(["model=ja-mini", "data=sample", *overrides]))


DEFAULT = parse_config(compose_tree([]))
BASE = config()
PARTS = identity(BASE, FACT_VALUES)
DEFAULT_RUN_ID = "bc7a12fcea3fa7e5"  # of the published experiment; it must not change


def pair(key: str) -> tuple[Config, Config]:
    """Two configurations that differ in ``key`` alone, and for which the key has an effect."""
    start = DEFAULT
    if key.startswith("pruner."):
        start = changed(DEFAULT, {"pruner.name": "hyperband"})
    if key == "model.architecture":
        start = changed(DEFAULT, {"model.weights": "random"})
    values = dict(different_value(key, start))
    after = changed(start, values)
    value = values.pop(key)
    try:
        return changed(start, values), after
    except ValueError:  # without it the others are not valid
        other = 2 if value == 1 else value / 2 if isinstance(value, float) else f"{value}.other"
        return changed(start, values | {key: other}), after


@pytest.mark.parametrize("key", KEYS)
def test_every_key_changes_the_identity_or_is_excluded_with_a_reason(key: str) -> None:
    before, after = (identity(part, FACT_VALUES) for part in pair(key))
    excluded = not changes_result(key) or key in RESOLVED
    found = [line.partition(": ")[0] for line in differences(before, after)]
    assert (key in found, bool(found)) == (not excluded, not excluded), f"{key} must count, or be excluded"


@pytest.mark.parametrize("key", KEYS)
def test_a_sweep_knows_no_facts_so_the_names_count(key: str) -> None:
    before, after = (settings(part) for part in pair(key))
    assert (before == after) == (not changes_result(key))


def test_the_exclusions_are_keys_with_reasons() -> None:
    sections = {key.partition(".")[0] for key in KEYS}
    assert set(NO_EFFECT) <= {*KEYS, *sections} and set(RESOLVED) <= set(KEYS)
    assert all(len(reason) > 10 for reason in NO_EFFECT.values())
    assert not set(NO_EFFECT) & set(RESOLVED)


def test_younger_keys_do_not_count_at_their_neutral_value() -> None:
    values = settings(DEFAULT)
    assert not NEUTRAL.keys() - values.keys()
    assert not NEUTRAL.keys() & PARTS.keys()
    assert run_id(identity(DEFAULT, FACT_VALUES)) == DEFAULT_RUN_ID


@pytest.mark.parametrize("fact", FACTS)
def test_every_fact_counts(fact: str) -> None:
    assert run_id(PARTS) != run_id(PARTS | {fact: "another"})


def test_differences_are_one_line_each() -> None:
    assert differences({"template.text": "a\nb", "lora.r": 4}, {"template.text": None, "lora.r": 4}) == [
        'template.text: "a\\nb" there, null here'
    ]


def test_keys_without_effect_do_not_count() -> None:
    def same(*pairs: dict[str, Any]) -> bool:
        return len({run_id(identity(config(**pair), FACT_VALUES)) for pair in pairs}) == 1

    without = {"lora": "none"}
    assert same(without, without | {"++lora.r": 4}), "there is no adapter"
    assert same({"engine": "reference"}, {"engine": "reference", "++engine.compile": "true"})
    assert same({}, {"++pruner.max_lag": 0.5}) and not same({}, {"pruner": "median"})


def test_the_default_loss_and_monitor_leave_the_identity_as_it_was() -> None:
    younger = [key for key in PARTS if key.startswith("loss.") or key == "trainer.monitor"]
    assert not younger
    focal = identity(config(loss="focal"), FACT_VALUES)
    assert {key: focal[key] for key in focal.keys() - PARTS} == {"loss.name": "focal", "loss.gamma": 2.0}
    weighted = [identity(config(**{"loss.class_weights": w}), FACT_VALUES) for w in ("{a:1,b:2}", "{b:2,a:1.0}")]
    assert weighted[0] == weighted[1] and weighted[0]["loss.class_weights"] == {"a": 1.0, "b": 2.0}
    assert run_id(weighted[0]) == run_id(weighted[1]) != run_id(PARTS)


def test_the_identity_survives_json() -> None:
    assert identity(BASE, PARTS) == PARTS, "the facts are read back from it"
    assert differences(PARTS, PARTS) == []


def test_scores_are_compared_on_the_same_texts_only() -> None:
    folds = [identity(config(**{"data.folds": 5, "data.fold": fold}), FACT_VALUES) for fold in (0, 1)]
    assert len({text_id(PARTS), *(text_id(parts) for parts in folds)}) == 3
    assert text_id(PARTS) == text_id(identity(config(seed=7), FACT_VALUES))


def test_a_sweep_of_schema_1_keeps_its_study() -> None:
    """The hash that version 0.1 gave to the same texts."""
    old = {key: PARTS[key] for key in ("data.digest", "data.split", "data.split_seed")}
    assert text_id(PARTS) == sha256_json(old | {"data.fold": None})
    folded = identity(config(**{"data.folds": 5, "data.fold": 1}), FACT_VALUES)
    assert text_id(folded) == sha256_json(old | {"data.fold": [1, 5]})
