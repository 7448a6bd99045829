"""The keys that make a corpus of the rows of a table: its labels and its splits."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from llm_cls.config.fields import Name
from llm_cls.config.mappings import read_mapping
from llm_cls.config.texts import TextsConfig


def _names_by_value(value: Any) -> Any:
    """A list of names as a mapping from 0, 1, 2, ...; the keys of a mapping as text."""
    if isinstance(value, list):
        return {str(i): name for i, name in enumerate(value)}
    return read_mapping(value, last_colon=False)


class CorpusConfig(TextsConfig):
    """The keys of ``data`` that say what is done with the texts of a table and their labels."""

    split: Name | None = Field(
        None,
        description="Name of the column with the split of each row: train, val (or validation, dev) or test "
        "(data=table).",
        examples=["data.split=split"],
    )
    fold_column: Name | None = Field(
        None,
        description="Name of the column with the fold of each row (data=table). data.fold is the fold that is test; "
        "the next one is val.",
        examples=["data.fold_column=fold"],
    )
    group: Name | None = Field(
        None,
        description="Name of the column with the group of each text, such as its author (data=table). Texts of a group "
        "are put in the same split.",
        examples=["data.group=author"],
    )
    on_empty: Literal["error", "skip", "keep"] = Field(
        "error",
        description="What is done with a row without text (data=table). Prediction keeps it in any case.",
        examples=["data.on_empty=skip"],
    )
    normalize_labels: bool = Field(
        False,
        description="Whether labels that differ in case, width or surrounding blanks only become one, under its most "
        "frequent spelling (data=table).",
        examples=["data.normalize_labels=true"],
    )
    rare_labels: Literal["error", "keep", "drop", "merge"] = Field(
        "error",
        description="What is done with labels that have too few texts for every split (data=table). keep: all their "
        "texts go to train. drop: their texts are left out. merge: they become one label, data.other_label. Where the "
        "splits are given, rare is a label with fewer than two training texts.",
        examples=["data.rare_labels=drop"],
    )
    other_label: Name = Field(
        "other",
        description="Name of the label that rare ones become (data.rare_labels=merge).",
        examples=["data.other_label=misc"],
    )
    label_order: Annotated[list[Name], Field(min_length=1)] | None = Field(
        None,
        description="All labels, in their order in tables and in the confusion matrix (data=table); null sorts them.",
        examples=["data.label_order=[bad,fair,good]"],
    )
    label_names: Annotated[dict[str, Name], Field(min_length=1), BeforeValidator(_names_by_value)] | None = Field(
        None,
        description="Names of the values in the label column (data=table): a list for the values 0, 1, 2, ..., or a "
        "mapping.",
        examples=["data.label_names=[negative,positive]", "'data.label_names={-1:negative,1:positive}'"],
        json_schema_extra={"must_be": "a list of names, or a mapping of values to names"},
    )
    keep_texts: bool = Field(
        True,
        description="Whether the predictions of a run hold the beginning of each text, for the report (data=table).",
        examples=["data.keep_texts=false"],
    )


def file_faults(data: Any) -> list[str]:
    """What is missing or contradictory in the files of a table, a line for each fault."""
    others = {"data.val_file": data.val_file, "data.test_file": data.test_file}
    given = [key for key, path in others.items() if path is not None]
    faults = []
    if data.file is None and data.train_file is None:
        faults = [f"{key} needs data.train_file. Try data.train_file=train.csv" for key in given]
        faults = faults or ["data.file is missing. Try data.file=texts.csv"]
    elif data.file is not None and (given or data.train_file is not None):
        faults.append("data.file and data.train_file exclude each other. Give one of them")
    return faults + split_faults(data, separate=bool(given))


def description_faults(data: Any) -> list[str]:
    """What is missing or contradictory in the columns of a table, a line for each fault."""
    faults = []
    if data.text is None and data.body is None and not data.columns:
        faults.append("data.text is missing. Try data.text=COLUMN, or data.title=COLUMN data.body=COLUMN")
    elif data.text is not None and (data.body is not None or data.title is not None):
        faults.append("data.text excludes data.title and data.body. Give one or the other")
    if data.label is None:
        faults.append("data.label is missing. Try data.label=COLUMN")
    elif data.label in data.input_columns:
        faults.append(f"data.label={data.label} is also read as text, which gives it away. Name another column")
    return faults


def split_faults(data: Any, separate: bool) -> list[str]:
    """Ways to split that exclude one another; ``separate``: val or test have their own files."""
    ways = {"data.folds": data.folds, "data.split": data.split, "data.fold_column": data.fold_column}
    chosen = [key for key, value in ways.items() if value is not None]
    if len(chosen) > 1:
        return [f"{chosen[0]} and {chosen[1]} exclude each other. Give one of them"]
    if chosen and separate:
        return [f"{chosen[0]} splits one file. Try data.file instead of data.train_file"]
    return []
