"""The arguments of the commands besides training, each a section like those of a run's configuration."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from llm_cls.config.fields import Location, Name, PositiveInt, Section

STANDARD = "-"  # standard input or output, where a file may be named
OUTPUT_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet"}  # that predict writes
_INPUT_FORMATS = {".csv": "csv", ".tsv": "tsv"}  # that standard output takes over


class PredictArguments(Section):
    """Labels new texts with a finished run."""

    run: Location = Field(
        description="Run directory of a finished run.", examples=["run=outputs/runs/2026-01-31/12-00-00-000000"]
    )
    input: Location = Field(
        description="CSV, TSV, JSONL or Parquet file with the text columns of the training table, or - for standard "
        "input. For a run on another corpus, such as livedoor: with the columns title and body.",
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
    batch_size: PositiveInt = Field(32, description="Texts per forward pass.", examples=["batch_size=8"])
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

    @field_validator("output")
    @classmethod
    def _format_is_known(cls, value: Path) -> Path:
        if str(value) != STANDARD and value.suffix not in OUTPUT_FORMATS:
            raise ValueError("must end with .csv, .tsv, .jsonl or .parquet, or be -")
        return value

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


class ReportArguments(Section):
    """Writes tables, plots and statistics over all runs below a directory."""

    dir: Location = Field(
        description="Directory of a sweep, or any other with runs below it. The report is written to report/ in it.",
        examples=["dir=outputs/sweeps/NAME"],
    )
    data: Name | None = Field(
        None,
        description="Name of the corpus to report on, or the beginning of its digest.",
        examples=["data=livedoor"],
        json_schema_extra={"default": "the corpus of most runs"},
    )
    baseline: bool = Field(
        True,
        description="Whether a classical baseline, TF-IDF with logistic regression, is fitted for comparison.",
        examples=["baseline=false"],
    )


class StatusArguments(Section):
    """Shows the progress of a sweep's runs, or of a single run."""

    dir: Location = Field(
        description="Directory of a sweep or of a run, or with runs below it.", examples=["dir=outputs/sweeps/NAME"]
    )
    verify: bool = Field(
        False,
        description="Whether every file of every run is read and compared with its sha256, its configuration and its "
        "predictions.",
        examples=["verify=true"],
    )


class DashboardArguments(Section):
    """Shows the curves of local runs in W&B's terminal viewer, without an account."""

    dir: Location = Field(Path("outputs"), description="Directory with runs below it.", examples=["dir=outputs/runs"])


class BenchmarkArguments(Section):
    """Trains a few steps on this machine and measures their speed and memory."""

    engine: Name = Field(
        "fast,reference", description="Engines to measure, separated by commas.", examples=["engine=fast,fp8"]
    )
    steps: PositiveInt = Field(20, description="Optimizer steps that are measured.", examples=["steps=50"])
    warmup: PositiveInt = Field(5, description="Optimizer steps before the measurement.", examples=["warmup=10"])
    fit: bool = Field(
        True, description="Whether to search for the largest micro batch that fits in memory.", examples=["fit=false"]
    )
    output: Location | None = Field(
        None,
        description="JSON file with the measurements.",
        examples=["output=speed.json"],
        json_schema_extra={"default": "outputs/benchmark/TIME.json"},
    )
