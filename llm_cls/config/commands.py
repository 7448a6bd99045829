"""The arguments of the commands besides training, each a section like those of a run's configuration."""

from pathlib import Path

from pydantic import Field

from llm_cls.config.fields import Location, MonitorName, Name, PositiveInt, Section


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
    concurrent: Name = Field(
        "1",
        description="Numbers of runs that train at the same time, as with sweep.concurrent, separated by commas.",
        examples=["concurrent=1,2,4"],
        pattern="^[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*$",
        json_schema_extra={"must_be": "whole numbers >= 1, separated by commas"},
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
