"""The keys that describe table files, and those of data sets on the Hugging Face hub."""

import codecs
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from llm_cls.config.fields import Location, Name, Section

Files = Location | Annotated[list[Location], Field(min_length=1)]

_ESCAPES = {"\\t": "\t", "tab": "\t"}  # a tab is hard to type


def _unescape(value: Any) -> Any:
    return _ESCAPES.get(value, value) if isinstance(value, str) else value


def _check_separator(value: str) -> str:
    if len(value) != 1 or value in '"\r\n\0':
        raise ValueError("must be one character, and no quote or line break")
    return value


def _check_encoding(value: str) -> str:
    try:
        known = codecs.lookup(value)
        if getattr(known, "_is_text_encoding", True):  # hex and rot13 are none
            known.incrementaldecoder(errors="strict").decode(b"")
            return value
    except (LookupError, ValueError, TypeError):
        pass
    raise ValueError("must be an encoding that Python knows")


_Separator = Annotated[str, BeforeValidator(_unescape), AfterValidator(_check_separator)]
_Encoding = Annotated[str, AfterValidator(_check_encoding)]


class TableKeys(Section):
    """How table files are read."""

    separator: _Separator | None = Field(
        None,
        description="Character between the cells of a CSV or TSV file; tab is one. null: a comma, in TSV a tab.",
        examples=["'data.separator=\";\"'"],
        json_schema_extra={"must_be": "one character, and no quote or line break"},
    )
    quoting: bool = Field(
        True,
        description="Whether double quotes enclose cells of a CSV or TSV file. false: quotes are text.",
        examples=["data.quoting=false"],
    )
    header: bool = Field(
        True,
        description="Whether the first row of a CSV, TSV or Excel file has the names of the columns. false: their "
        "names are their numbers, from 1.",
        examples=["data.header=false"],
    )
    encoding: _Encoding = Field(
        "utf-8",
        description="Encoding of CSV, TSV and JSON files.",
        examples=["data.encoding=cp932"],
    )
    field: Name | None = Field(
        None,
        description="Field of a JSON file that holds the list of rows, with dots between nested ones.",
        examples=["data.field=data"],
    )
    sheet: Name | None = Field(
        None, description="Name of the sheet of an Excel file that has several.", examples=["data.sheet=Sheet1"]
    )


def _as_in_training(description: str, example: str, **more: str) -> Any:
    extra: dict[str, JsonValue] = {"default": "as in training", **more}
    return Field(None, description=description, examples=[example], json_schema_extra=extra)


class OtherTable(Section):
    """How a table file is read that is not like those of the training."""

    separator: _Separator | None = _as_in_training(
        "Character between the cells of a CSV or TSV file; tab is one.",
        "data.separator=tab",
        must_be="one character, and no quote or line break",
    )
    quoting: bool | None = _as_in_training(
        "Whether double quotes enclose cells of a CSV or TSV file.", "data.quoting=false"
    )
    header: bool | None = _as_in_training(
        "Whether the first row of a CSV, TSV or Excel file has the names of the columns.", "data.header=true"
    )
    encoding: _Encoding | None = _as_in_training("Encoding of CSV, TSV and JSON files.", "data.encoding=utf-8")
    field: str | None = _as_in_training(
        "Field of a JSON file that holds the list of rows, with dots between nested ones; empty where there are rows "
        "alone.",
        "data.field=rows",
    )
    sheet: Name | None = _as_in_training("Name of the sheet of an Excel file.", "data.sheet=Sheet1")


class HubKeys(Section):
    """A data set on the Hugging Face hub, or in a folder of that layout."""

    dataset: Name | None = Field(
        None,
        description="Id of the data set on the Hugging Face hub, or a local folder (data=hub).",
        examples=["data.dataset=ORG/NAME"],
    )
    subset: Name | None = Field(
        None, description="Name of its configuration, where it has several (data=hub).", examples=["data.subset=ja"]
    )
    revision: Name | None = Field(
        None,
        description="Commit, branch or tag of the data set; null is the newest (data=hub).",
        examples=["data.revision=main"],
    )
    train_split: Name | None = Field(
        None,
        description="Name of its split for training; null: train, or the only one (data=hub).",
        examples=["data.train_split=train"],
    )
    val_split: Name | None = Field(
        None,
        description="Name of its split for validation; null: validation, valid, val or dev (data=hub).",
        examples=["data.val_split=dev"],
    )
    test_split: Name | None = Field(
        None, description="Name of its test split; null: test (data=hub).", examples=["data.test_split=test"]
    )


def dataset_faults(data: HubKeys) -> list[str]:
    """What is missing in the description of a data set, a line for each fault."""
    return [] if data.dataset is not None else ["data.dataset is missing. Try data.dataset=ORG/NAME, or a folder"]
