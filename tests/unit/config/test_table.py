"""The keys of tables and of the hub: what may be typed, and the lines for what may not."""

from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.config.table import OtherTable
from llm_cls.data.rows import TableFormat
from llm_cls.errors import ConfigError

from .test_schema import parse

TABLE = ["data=table", "data.file=a.csv", "data.text=text", "data.label=label"]


def table(*arguments: str) -> DataConfig:
    return parse(*TABLE, *arguments).data


def test_the_defaults_are_those_of_the_reader() -> None:
    assert TableFormat.of(table()) == TableFormat()


def test_a_table_that_is_not_like_that_of_the_training() -> None:
    of_training = table("data.separator=';'", "data.encoding=cp932", "data.field=a.b", "data.header=false")
    assert TableFormat.of(of_training, OtherTable()) == TableFormat.of(of_training)
    other = OtherTable.model_validate({"separator": "tab", "header": "true", "field": ""})
    assert TableFormat.of(of_training, other) == TableFormat("\t", encoding="cp932")


@pytest.mark.parametrize(
    ("argument", "separator"),
    [("data.separator=|", "|"), ('data.separator=";"', ";"), ("data.separator=tab", "\t"),
     (r"data.separator='\t'", "\t"), ("data.separator=' '", " "), ("data.separator=','", ",")],
)  # fmt: skip
def test_separators(argument: str, separator: str) -> None:
    assert table(argument).separator == separator


def test_columns_may_be_numbers() -> None:
    data = table("data.header=false", "data.text=1", "data.label=2")
    assert (data.header, data.text, data.label) == (False, "1", "2")


@pytest.mark.parametrize(
    ("argument", "files"),
    [("data.file=[a.csv,b/c.jsonl]", [Path("a.csv"), Path("b/c.jsonl")]), ("data.file='b/*.csv'", Path("b/*.csv"))],
)
def test_several_files(argument: str, files: object) -> None:
    assert table(argument).file == files


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["data.separator=ab"], "data.separator must be one character, and no quote or line break, got 'ab'. Try"),
        (["data.separator='\"'"], "data.separator must be one character, and no quote or line break"),
        (["data.encoding=utf9"], "data.encoding must be an encoding that Python knows, got 'utf9'. Try data.encoding="),
        (["data.encoding=hex"], "data.encoding must be an encoding that Python knows, got 'hex'"),
        (["data.quoting=maybe"], "data.quoting must be true or false, got 'maybe'"),
        (["data.file=[]"], "data.file must be a path or a list of paths, got []. Try data.file=texts.csv"),
        (["data.file=[a.csv,'']"], "data.file must be a path or a list of paths, got"),
        (["data.name=hub"], "data.dataset is missing. Try data.dataset=ORG/NAME, or a folder"),
    ],
)
def test_values_that_are_refused(arguments: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*TABLE, *arguments)
    assert str(caught.value).startswith(line), str(caught.value)
