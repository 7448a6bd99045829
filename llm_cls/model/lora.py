"""Adds the LoRA adapter (PEFT)."""

import peft
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_cls.config.schema import LoraConfig
from llm_cls.errors import ConfigError, first_line


def add_adapter(decoder: PreTrainedModel, config: LoraConfig) -> nn.Module:
    """``decoder`` with an adapter whose output is zero at the start; everything else is frozen.

    The adapter's weights are float32 whatever the decoder's dtype, because in bf16 small updates round to zero.

    Raises:
        ConfigError: ``lora.target_modules`` names no layer, or the architecture has no default.
    """
    settings = peft.LoraConfig(
        task_type=peft.TaskType.FEATURE_EXTRACTION,
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        bias="none",
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in decoder.modules()),  # GPT-2 stores its weights transposed
    )
    names = [name for name, _ in decoder.named_modules()]
    wanted = config.target_modules if isinstance(config.target_modules, list) else []
    linear = sorted({name.rpartition(".")[2] for name, m in decoder.named_modules() if isinstance(m, nn.Linear)})
    advice = f"Try lora.target_modules=all-linear, or some of {', '.join(linear)}"
    # PEFT accepts a list of names if one of them fits.
    if unknown := [w for w in wanted if not any(name == w or name.endswith(f".{w}") for name in names)]:
        raise ConfigError(f"lora.target_modules: no layer of this model is named {unknown[0]!r}. {advice}")
    try:
        return peft.get_peft_model(decoder, settings)
    except ValueError as error:
        raise ConfigError(
            f"lora.target_modules={config.target_modules or 'null'} matches no layer of this "
            f"{decoder.config.model_type} model: {first_line(error)} {advice}"
        ) from None
