"""The arguments of the commands besides training, each a section like those of a run's configuration."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from llm_cls.config.fields import Location, Name, PositiveInt, Section


def _refuse_empty(value: Any) -> Any:
    """Refuses ``dir=``, which would mean the current folder."""
    if value == "":
        raise ValueError("must not be empty")
    return value


Given = Annotated[Location, BeforeValidator(_refuse_empty)]


class PredictArguments(Section):
    """Labels new texts with a finished run."""

    run: Given = Field(
        description="Run directory of a finished run.", examples=["run=outputs/runs/2026-01-31/12-00-00-000000"]
    )
    input: Given = Field(
        description="CSV, TSV, JSONL or Parquet file with the columns that the run was trained on.",
        examples=["input=texts.csv"],
    )
    output: Given = Field(
        description="CSV, TSV or JSONL file to write: a row for each text, in the order of the input.",
        examples=["output=labels.csv"],
    )
    batch_size: PositiveInt = Field(32, description="Texts per forward pass.", examples=["batch_size=8"])
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Kind of device; auto uses a GPU if there is one.", examples=["accelerator=cpu"]
    )
    text: Name | None = Field(
        None,
        description="Name of the column with the text.",
        examples=["text=text"],
        json_schema_extra={"default": "as in training"},
    )
    title: Name | None = Field(
        None,
        description="Name of the column with the title.",
        examples=["title=headline"],
        json_schema_extra={"default": "as in training"},
    )
    body: Name | None = Field(
        None,
        description="Name of the column with the body.",
        examples=["body=content"],
        json_schema_extra={"default": "as in training"},
    )
    id: Name | None = Field(
        None,
        description="Name of the column with the id of each text; without such a column the rows are numbered.",
        examples=["id=article"],
        json_schema_extra={"default": "as in training, or id"},
    )

    @field_validator("output")
    @classmethod
    def _format_is_known(cls, value: Path) -> Path:
        if value.suffix not in (".csv", ".tsv", ".jsonl"):
            raise ValueError("must end with .csv, .tsv or .jsonl")
        return value


class ReportArguments(Section):
    """Writes tables, plots and statistics over all runs below a directory."""

    dir: Given = Field(
        description="Directory with runs below it; the report is written to report/ there.",
        examples=["dir=outputs/sweeps/NAME"],
    )
    data: Name | None = Field(
        None,
        description="Name of the corpus to report on, or the beginning of its digest.",
        examples=["data=livedoor"],
        json_schema_extra={"default": "the corpus of most runs"},
    )
    baseline: bool = Field(
        True, description="Whether a classical baseline is computed and compared.", examples=["baseline=false"]
    )


class StatusArguments(Section):
    """Shows how far the runs of a sweep are."""

    dir: Given = Field(description="Directory of a sweep.", examples=["dir=outputs/sweeps/NAME"])


class DashboardArguments(Section):
    """Shows the curves of local runs in W&B's terminal viewer, without an account."""

    dir: Given = Field(Path("outputs"), description="Directory with runs below it.", examples=["dir=outputs/runs"])


class BenchmarkArguments(Section):
    """Measures speed and memory of a configuration on this machine, in the ordinary training path."""

    engine: Name = Field(
        "fast,reference", description="Engines to measure, separated by commas.", examples=["engine=fast,fp8"]
    )
    steps: PositiveInt = Field(20, description="Optimizer steps that are measured.", examples=["steps=50"])
    warmup: PositiveInt = Field(5, description="Optimizer steps before those.", examples=["warmup=10"])
    fit: bool = Field(
        True, description="Whether the largest micro batch that fits the memory is searched.", examples=["fit=false"]
    )
    output: Given | None = Field(
        None,
        description="JSON file with the measurements.",
        examples=["output=speed.json"],
        json_schema_extra={"default": "outputs/benchmark/TIME.json"},
    )
