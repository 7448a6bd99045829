"""The arguments of the commands that score texts with a finished run."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from llm_cls.config.decisions import DecisionArguments
from llm_cls.config.fields import Location, Name, PositiveInt
from llm_cls.config.table import OtherTable

STANDARD = "-"  # standard input or output, where a file may be named
OUTPUT_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet"}  # that predict writes
_INPUT_FORMATS = {".csv": "csv", ".tsv": "tsv"}  # that standard output takes over


class ScoringArguments(DecisionArguments):
    """What every command takes that scores texts with a finished run."""

    run: Location = Field(
        description="Run directory of a finished run.", examples=["run=outputs/runs/2026-01-31/12-00-00-000000"]
    )
    batch_size: PositiveInt | None = Field(
        None, description="Texts per forward pass. null: 32 on a CPU, 128 on a GPU.", examples=["batch_size=8"]
    )
    devices: PositiveInt = Field(
        1,
        description="Number of GPUs, each with a process of its own; on a CPU number of processes.",
        examples=["devices=2"],
    )
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Kind of device; auto uses a GPU if there is one.", examples=["accelerator=cpu"]
    )
    trust_remote_code: bool = Field(
        False,
        description="Whether code of the pretrained model may run on this machine. The configuration of the run cannot "
        "allow it.",
        examples=["trust_remote_code=true"],
    )


class PredictArguments(ScoringArguments):
    """Labels new texts with a finished run."""

    input: Location = Field(
        description="File with the text columns of the training table, in any format that training reads, or - for "
        "standard input. For a run on another corpus, such as livedoor: with the columns title and body.",
        examples=["input=texts.csv", "input=-"],
    )
    output: Location = Field(
        description="CSV, TSV, JSONL or Parquet file to write, or - for standard output: the rows of the input with "
        "the columns label, confidence and error, in the order of the input.",
        examples=["output=labels.csv", "output=-"],
    )
    format: Literal["csv", "tsv", "jsonl"] | None = Field(
        None,
        description="Format of standard input and standard output.",
        examples=["format=csv", "format=jsonl"],
        json_schema_extra={"default": "of output=-: that of the input"},
    )
    top_k: PositiveInt = Field(
        1,
        description="Number of labels per text. Those after the best are in the columns label_2, confidence_2, and so "
        "on.",
        examples=["top_k=3"],
    )
    probabilities: bool = Field(
        False,
        description="Whether the probability of every label is written.",
        examples=["probabilities=true"],
    )
    text: Name | None = Field(
        None,
        description="Name of the column with the text, for a run on texts without titles.",
        examples=["text=text"],
        json_schema_extra={"default": "as in training"},
    )
    title: Name | None = Field(
        None,
        description="Name of the column with the title.",
        examples=["title=headline"],
        json_schema_extra={"default": "as in training, or title"},
    )
    body: Name | None = Field(
        None,
        description="Name of the column with the body.",
        examples=["body=content"],
        json_schema_extra={"default": "as in training, or body"},
    )
    data: OtherTable = OtherTable()

    @field_validator("output")
    @classmethod
    def _format_is_known(cls, value: Path) -> Path:
        if str(value) != STANDARD and value.suffix not in OUTPUT_FORMATS:
            raise ValueError("must end with .csv, .tsv, .jsonl or .parquet, or be -")
        return value

    @model_validator(mode="after")
    def _no_label_twice(self) -> Self:
        if self.decide == "cost" and self.top_k > 1:
            raise ValueError("top_k must be 1 with decide=cost, which does not order the labels by their probability")
        return self

    @model_validator(mode="after")
    def _formats_are_known(self) -> Self:
        standard = [key for key in ("input", "output") if str(getattr(self, key)) == STANDARD]
        if self.format is None and "input" in standard:
            raise ValueError("format is missing. Standard input needs one: format=csv, format=tsv or format=jsonl")
        if not standard and self.format not in (None, self.output_format, _INPUT_FORMATS.get(self.input.suffix)):
            raise ValueError("format is for input=- and output=-. A file has the format that its name ends with")
        return self

    @property
    def output_format(self) -> str:
        """The format to write: "csv", "tsv", "jsonl" or "parquet"."""
        if str(self.output) != STANDARD:
            return OUTPUT_FORMATS[self.output.suffix]
        return self.format or _INPUT_FORMATS.get(self.input.suffix.lower(), "jsonl")


class EvaluatedData(OtherTable):
    """The texts to evaluate a run on."""

    file: Name = Field(
        description="File with labelled texts, in any format that training reads; several are separated by commas, "
        "and evaluated one by one.",
        examples=["data.file=new.csv", "data.file=2025.csv,2026.csv"],
    )
    text: Name | None = Field(
        None,
        description="Name of the column with the text, for a run on texts without titles.",
        examples=["data.text=text"],
        json_schema_extra={"default": "as in training"},
    )
    title: Name | None = Field(
        None,
        description="Name of the column with the title.",
        examples=["data.title=headline"],
        json_schema_extra={"default": "as in training, or title"},
    )
    body: Name | None = Field(
        None,
        description="Name of the column with the body.",
        examples=["data.body=content"],
        json_schema_extra={"default": "as in training, or body"},
    )
    label: Name | None = Field(
        None,
        description="Name of the column with the label.",
        examples=["data.label=category"],
        json_schema_extra={"default": "as in training, or label"},
    )
    id: Name | None = Field(
        None,
        description="Name of the column with the id of each text; without such a column the rows are numbered.",
        examples=["data.id=article"],
        json_schema_extra={"default": "as in training, or id"},
    )

    @property
    def files(self) -> list[Path]:
        """The files, in their order; the name of one that exists may have commas."""
        if Path(self.file).exists():
            return [Path(self.file)]
        return [Path(name) for name in self.file.removeprefix("[").removesuffix("]").split(",") if name]


class EvaluateArguments(ScoringArguments):
    """Scores a finished run on other labelled texts."""

    data: EvaluatedData = Field(examples=["data.file=new.csv"])
    output: Location | None = Field(
        None,
        description="Folder for scores and predictions; for several files, it gets a folder for each.",
        examples=["output=outputs/evaluations/new"],
        json_schema_extra={"default": "evaluations/NAME-DIGEST in the run directory"},
    )
