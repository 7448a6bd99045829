"""From rows to texts, and the reason where there is none."""

from pathlib import Path
from typing import Any

import pytest

from llm_cls.config.compose import accept_plain_values, compose_tree
from llm_cls.config.schema import Config, parse_config
from llm_cls.data.inputs import TextColumns
from llm_cls.errors import DataError

accept_plain_values()


@pytest.fixture(scope="module")
def config() -> Config:
    return parse_config(compose_tree(["template=2"]))


def columns(config: Config, **names: str | None) -> TextColumns:
    return TextColumns.of(config, **({"text": None, "title": None, "body": None} | names), section="")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("本", "本"),
        (7, "7"),
        (7.0, "7"),
        (0.5, "0.5"),
        (True, "True"),
        (2.0**60, "1.152921504606847e+18"),
        (" x ", " x "),
    ],
)
def test_values_are_written_as_in_training(config: Config, body: Any, text: str) -> None:
    assert columns(config).read([{"title": None, "body": body}]) == ([("\n", text, "", "")], [""])


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"body": ""}, "body is empty"),
        ({"body": "\n \u3000"}, "body is empty"),
        ({"body": None}, "body is missing"),
        ({"body": float("nan")}, "body is empty"),
        ({}, "body is missing"),
        ({"body": {"a": 1}}, "body is a dict, not a string"),
        ({"body": b"x"}, "body is a bytes, not a string"),
        ({"body": "a\udc00"}, "body is not valid Unicode"),
        ({"body": "a", "title": ["b"]}, "title is a list, not a string"),
    ],
)
def test_a_row_without_a_text_says_why(config: Config, row: dict[str, Any], fault: str) -> None:
    good = {"title": "題", "body": "本"}
    assert columns(config).read([good, row, good]) == ([("題\n", "本", "", "")] * 2, ["", fault, ""])


def test_columns_are_those_named_or_those_of_the_training(config: Config) -> None:
    assert columns(config).names == {"title": "title", "body": "body"}
    named = columns(config, body="b", title="t")
    assert named.read([{"b": "本", "t": "題", "body": "x", "title": "x"}])[0] == [("題\n", "本", "", "")]
    table = ["data=table", "data.file=x.csv", "data.label=l", "data.text=文"]
    alone = columns(parse_config(compose_tree(table)))
    assert alone.names == {"body": "文"}
    with pytest.raises(DataError, match=r"t\.csv has no column '文'.* Try text=COLUMN"):
        alone.check({"text": ["not one value"]}, Path("t.csv"))
    with pytest.raises(DataError, match=r"t\.csv has no column 'title'.* Try title=COLUMN"):
        columns(config).check({"body": ""}, Path("t.csv"))
