"""The sections that choose where a run is trained, where its curves go, and what belongs to a sweep."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from llm_cls.config.fields import AtLeastTwo, MonitorName, Name, NonNegativeInt, PositiveInt, Section


class TrainerConfig(Section):
    """Where and how long training runs."""

    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Kind of device; auto uses a GPU if there is one.", examples=["trainer=cpu"]
    )
    devices: PositiveInt | Literal["auto"] = Field(
        1,
        description="Processes per machine, each with one device; auto uses all GPUs.",
        examples=["trainer.devices=2"],
        json_schema_extra={"must_be": "a whole number >= 1, or auto"},
    )
    num_nodes: PositiveInt = Field(1, description="Number of machines.", examples=["trainer.num_nodes=2"])
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto",
        description="Lightning's precision; auto: bf16 on GPUs that support it, 16-bit on others, float32 on CPUs.",
        examples=["trainer.precision=bf16-mixed"],
    )
    max_epochs: PositiveInt = Field(10, description="Maximum number of epochs.", examples=["trainer.max_epochs=10"])
    monitor: MonitorName = Field(
        "f1",
        description="Score on val that selects the best epoch, stops early, prunes, and ranks runs in reports. f1: "
        "macro F1. weighted_f1: F1 weighted by the number of texts of each label. mcc: Matthews correlation "
        "coefficient. loss: mean cross-entropy, of which less is better.",
        examples=["trainer.monitor=balanced_accuracy"],
    )
    early_stopping_patience: PositiveInt | None = Field(
        None,
        description="Training stops after this many epochs without a better trainer.monitor; null never stops early.",
        examples=["trainer.early_stopping_patience=3"],
    )
    timeout_seconds: PositiveInt = Field(
        600,
        description="Seconds that the processes of a run wait for one of them that hangs; then they end. For a process "
        "that does not respond at all they wait half as long.",
        examples=["trainer.timeout_seconds=1800"],
    )
    progress_bar: bool = Field(
        True,
        description="Whether a progress bar is shown; it is only on a terminal.",
        examples=["trainer.progress_bar=false"],
    )


class LoggerConfig(Section):
    """Where curves and tables are logged in addition to the run directory."""

    name: Literal["wandb", "none"] = Field(
        "wandb",
        description="wandb also logs to Weights & Biases; none logs to the run directory only.",
        examples=["logger=none"],
    )
    mode: Literal["auto", "online", "offline"] = Field(
        "auto",
        description="Whether W&B uploads; auto uploads where an API key is configured.",
        examples=["logger.mode=offline"],
    )
    project: Name = Field("llm_cls", description="W&B project.", examples=["logger.project=news"])
    entity: Name | None = Field(
        None, description="W&B user or team; null uses your default.", examples=["logger.entity=my-team"]
    )
    group: Name | None = Field(
        None,
        description="W&B group of the run. null: no group, or in a sweep the name of the sweep.",
        examples=["logger.group=ranks"],
    )
    timeout_seconds: float = Field(
        300,
        gt=0,
        description="Seconds that W&B may take to start, to log or to finish; after that the run continues without it.",
        examples=["logger.timeout_seconds=60"],
    )
    tags: list[str] = Field(default_factory=list, description="W&B tags of the run.", examples=["logger.tags=[trial]"])


class SweepConfig(Section):
    """How ``--multirun`` runs a sweep; no key here changes a result."""

    name: Name = Field(
        "sweep",
        description="Name of the sweep, and of its folder below outputs/sweeps. The name of an earlier sweep continues "
        "that sweep.",
        examples=["sweep.name=first"],
        json_schema_extra={"default": "the time of the start"},
    )
    isolate: bool = Field(
        False,
        description="Whether every run gets its own process. Otherwise the runs share a process and the decoder that "
        "it has loaded.",
        examples=["sweep.isolate=true"],
    )
    workers: PositiveInt | Literal["auto"] = Field(
        1,
        description="Processes that share the runs. auto: as many as the GPUs of this machine suffice for, each run "
        "with trainer.devices of them; one where there is no GPU. Each process gets GPUs of its own, of those in "
        "CUDA_VISIBLE_DEVICES if it is set, and its share of the threads.",
        examples=["sweep.workers=auto"],
        json_schema_extra={"must_be": "a whole number >= 1, or auto"},
    )
    concurrent: PositiveInt | Literal["auto"] = Field(
        1,
        description="How many runs train at the same time in one process, over one frozen decoder: their texts go "
        "through it together, which pays where a batch does not fill the device, as on a CPU. auto: as many as a "
        "short measurement finds fastest.",
        examples=["sweep.concurrent=4"],
        json_schema_extra={"must_be": "a whole number >= 1, or auto"},
    )
    retries: NonNegativeInt = Field(
        1, description="How many times a failed run is retried before the sweep ends.", examples=["sweep.retries=0"]
    )

    @model_validator(mode="after")
    def _name_is_a_folder(self) -> Self:
        if not re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]{1,120}", self.name):
            raise ValueError(f"sweep.name must be the name of a folder, without slashes, got {self.name!r}")
        return self

    @model_validator(mode="after")
    def _one_way_to_share(self) -> Self:
        if self.isolate and self.concurrent != 1:
            raise ValueError(
                f"sweep.concurrent must be 1 with sweep.isolate=true, which gives each run its own process, got "
                f"{self.concurrent}. Leave one of the two out"
            )
        return self


class PrunerConfig(Section):
    """Which runs of a sweep end early."""

    name: Literal["none", "median", "hyperband", "paired"] = Field(
        "none",
        description="Rule for ending runs early. It compares their val score, by trainer.monitor, after each epoch. "
        "median, hyperband: Optuna's. paired: a run ends if it lags behind the best one by pruner.max_lag and the val "
        "texts show that it is worse. none: no such rule.",
        examples=["pruner=median"],
    )
    stop_collapsed: bool = Field(
        False,
        description="Whether a run ends as soon as it gives every val text the same probabilities.",
        examples=["pruner.stop_collapsed=true"],
    )
    max_lag: float | None = Field(
        None,
        gt=0,
        le=1,
        description="How far a run may lag behind the best one, as a fraction of the best val score after as many "
        "epochs. A run that lags further ends. The rule starts at the second epoch and gets stricter towards the end "
        "of training; a lag of two standard errors is always allowed. null: no such rule.",
        examples=["pruner.max_lag=0.25"],
    )
    alpha: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="paired: probability with which the best run of the sweep is at most taken for a worse one, over "
        "all of its comparisons. null with other rules.",
        examples=["pruner.alpha=0.01"],
    )
    startup_runs: PositiveInt = Field(
        4,
        description="Number of finished runs that median needs before it ends a run.",
        examples=["pruner.startup_runs=8"],
    )
    warmup_fraction: float = Field(
        0.8,
        ge=0,
        le=1,
        description="median ends no run before this fraction of trainer.max_epochs.",
        examples=["pruner.warmup_fraction=0.5"],
    )
    min_epochs: PositiveInt = Field(
        1, description="hyperband ends no run before this many epochs.", examples=["pruner.min_epochs=2"]
    )
    reduction_factor: AtLeastTwo = Field(
        3,
        description="At each of its comparisons hyperband keeps one of this many runs. The others end.",
        examples=["pruner.reduction_factor=4"],
    )

    @model_validator(mode="after")
    def _paired_has_a_level(self) -> Self:
        if (self.name == "paired") != (self.alpha is not None):
            raise ValueError(
                "pruner.alpha must be set with pruner=paired, and null with others, "
                f"got pruner.name={self.name} and pruner.alpha={self.alpha}. Try pruner=paired"
            )
        if self.name == "paired" and self.max_lag is None:
            raise ValueError("pruner.max_lag must be set with pruner=paired, got null. Try pruner.max_lag=0.25")
        return self
