"""The configuration of a run: typed, checked as a whole, every fault reported with its fix.

Hydra composes ``conf/`` and the command line into one tree; ``parse_config`` turns that tree into the
frozen classes of this package, which are all that the rest of llm_cls sees. The sections are in ``data``,
``model`` and ``machine``; the help and the documentation of their keys are made from their fields.
"""

from typing import Any, Self

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import Field, model_validator

from llm_cls.config.data import DataConfig
from llm_cls.config.fields import Section, Seed, fields
from llm_cls.config.groups import choices
from llm_cls.config.loss import LossConfig
from llm_cls.config.machine import LoggerConfig, PrunerConfig, SweepConfig, TrainerConfig
from llm_cls.config.messages import nearest, validate
from llm_cls.config.model import EngineConfig, LoraConfig, ModelConfig, OptimizerConfig
from llm_cls.config.texts import TemplateConfig, column_faults, with_template_columns
from llm_cls.errors import ConfigError, first_line

__all__ = [
    "Config", "DataConfig", "EngineConfig", "LoggerConfig", "LoraConfig", "LossConfig", "ModelConfig",
    "OptimizerConfig", "PrunerConfig", "SweepConfig", "TemplateConfig", "TrainerConfig", "keys", "parse_config",
]  # fmt: skip


class Config(Section):
    """Everything that a run is made of."""

    model: ModelConfig
    template: TemplateConfig
    data: DataConfig
    lora: LoraConfig
    optimizer: OptimizerConfig
    loss: LossConfig = LossConfig()
    engine: EngineConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    sweep: SweepConfig = SweepConfig()
    pruner: PrunerConfig = PrunerConfig()
    seed: Seed = Field(
        42,
        description="Seed of the head, the adapter, the order of the texts and dropout, but not of the split.",
        examples=["seed=1"],
    )

    @model_validator(mode="before")
    @classmethod
    def _columns_are_those_of_the_template(cls, values: Any) -> Any:
        return with_template_columns(values)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        faults = column_faults(self.template, self.data)
        if self.data.micro_batch_size is not None and self.data.micro_batch_size > self.data.batch_size:
            faults.append(
                f"data.micro_batch_size must be <= data.batch_size ({self.data.batch_size}), "
                f"got {self.data.micro_batch_size}. Try data.micro_batch_size={self.data.batch_size}"
            )
        if self.optimizer.warmup_epochs > self.trainer.max_epochs:
            faults.append(
                f"optimizer.warmup_epochs must be <= trainer.max_epochs ({self.trainer.max_epochs}), "
                f"got {self.optimizer.warmup_epochs:g}. Try optimizer.warmup_epochs=0"
            )
        if self.model.pooling == "first" and self.lora.enabled and self.lora.target_modules is None:
            faults.append(
                "lora.target_modules has no default for an encoder. "
                "Try lora=none lora.full=true, or lora.target_modules=all-linear"
            )
        if faults:
            raise ValueError("\n".join(faults))
        return self


def keys() -> list[str]:
    """All keys of the configuration, dotted, in the order of the fields."""
    return list(fields(Config))


def parse_config(tree: DictConfig) -> Config:
    """The typed configuration of a composed tree.

    Raises:
        ConfigError: With one line for every fault.
    """
    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is missing. Try {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from None
    assert isinstance(values, dict)
    values.pop("experiment", None)
    config, faults = None, []
    try:
        config = validate(Config, values)
    except ConfigError as error:
        faults.append(str(error))
    # Every corpus has a file in conf/data/: reading their names is faster than importing their loaders.
    name = str(values.get("data", {}).get("name"))
    if name not in (known := choices("data")):
        faults.append(f"data.name={name} is not a corpus. {nearest(name, known)}")
    if config is None or faults:
        raise ConfigError("\n".join(faults))
    return config
