"""The arguments of the commands besides training, each a section like those of a run's configuration."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from llm_cls.config.fields import Location, MonitorName, Name, PositiveInt, Section


class PredictArguments(Section):
    """Labels new texts with a finished run."""

    run: Location = Field(
        description="Run directory of a finished run.", examples=["run=outputs/runs/2026-01-31/12-00-00-000000"]
    )
    input: Location = Field(
        description="CSV, TSV, JSONL or Parquet file with the text columns of the training table. For a run on another "
        "corpus, such as livedoor: with the columns title and body.",
        examples=["input=texts.csv"],
    )
    output: Location = Field(
        description="CSV, TSV or JSONL file to write: a row for each text, in the order of the input.",
        examples=["output=labels.csv"],
    )
    batch_size: PositiveInt = Field(32, description="Texts per forward pass.", examples=["batch_size=8"])
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

    dir: Location = Field(
        description="Directory of a sweep, or any other with runs below it. The report is written to report/ in it.",
        examples=["dir=outputs/sweeps/NAME"],
    )
    data: Name | None = Field(
        None,
        description="Data to report on: the name of the corpus, the name of the file, or the beginning of the digest.",
        examples=["data=livedoor"],
        json_schema_extra={"default": "the data of most runs"},
    )
    monitor: MonitorName | None = Field(
        None,
        description="Score that selected the runs to compare: their trainer.monitor. Runs that were selected by "
        "another one are listed only.",
        examples=["monitor=mcc"],
        json_schema_extra={"default": "that of most runs"},
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
