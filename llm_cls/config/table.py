"""The keys that describe table files, and those of data sets on the Hugging Face hub."""

import codecs
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

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


class TableKeys(Section):
    """How table files are read."""

    separator: Annotated[str, BeforeValidator(_unescape), AfterValidator(_check_separator)] | None = Field(
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
    encoding: Annotated[str, AfterValidator(_check_encoding)] = Field(
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
