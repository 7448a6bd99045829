"""Adds the LoRA adapter (PEFT)."""

from copy import deepcopy
from typing import Any

import peft
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_cls.config.schema import LoraConfig
from llm_cls.errors import ConfigError, first_line

_REFUSALS = (ValueError, TypeError, NotImplementedError, AttributeError, RuntimeError)


def add_adapter(decoder: PreTrainedModel, config: LoraConfig) -> nn.Module:
    """``decoder`` with an adapter whose output is zero at the start; everything else is frozen.

    The adapter's weights are float32 whatever the decoder's dtype, because in bf16 small updates round to zero.

    Raises:
        ConfigError: ``lora.target_modules`` names no layer, the architecture has no default, or PEFT refuses.
    """
    own = _layers_of_its_own(decoder)
    names = [name for name, _ in decoder.named_modules()]
    wanted = config.target_modules if isinstance(config.target_modules, list) else []
    # PEFT accepts a list of names if one of them fits.
    if unknown := [w for w in wanted if not any(name == w or name.endswith(f".{w}") for name in names)]:
        raise ConfigError(
            f"lora.target_modules: no layer of this model is named {unknown[0]!r}. {_advice(decoder, config, own)}"
        )
    try:
        return _adapted(decoder, config, own)
    except ValueError as error:
        what = "has no default for" if config.target_modules is None else "is refused by PEFT for"
        reason = "" if config.target_modules is None else f": {first_line(error).rstrip('.')}"
        raise ConfigError(
            f"lora.target_modules={config.target_modules or 'null'} {what} this {decoder.config.model_type} model"
            f"{reason}. {_advice(decoder, config, own)}"
        ) from None


def _adapted(decoder: PreTrainedModel, config: LoraConfig, own: list[str]) -> nn.Module:
    settings: dict[str, Any] = {"exclude_modules": own} if own and config.target_modules == "all-linear" else {}
    lora = peft.LoraConfig(
        task_type=peft.TaskType.FEATURE_EXTRACTION,
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        bias="none",
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in decoder.modules()),  # GPT-2 stores its weights transposed
        **settings,
    )
    return peft.get_peft_model(decoder, lora)


def _layers_of_its_own(decoder: nn.Module) -> list[str]:
    """Linear layers that compute something else than a product, such as routers; PEFT would take all of them."""
    found, is_product = [], dict[type, bool]()
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear) and type(module).__module__ == type(decoder).__module__:
            if type(module) not in is_product:
                is_product[type(module)] = _is_product(module)
            if not is_product[type(module)]:
                found.append(name)
    return found


@torch.no_grad()
def _is_product(layer: nn.Linear) -> bool:
    x = torch.ones(1, 2, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
    expected = functional.linear(x, layer.weight, layer.bias)
    try:
        found = layer(x)
    except _REFUSALS:
        return False
    return isinstance(found, torch.Tensor) and found.shape == expected.shape and torch.allclose(found, expected, 1e-2)


def _advice(decoder: PreTrainedModel, config: LoraConfig, own: list[str]) -> str:
    """Settings that work: they are tried on a copy of the network that has no memory."""
    try:
        with torch.device("meta"):
            network: Any = type(decoder)(deepcopy(decoder.config))
    except _REFUSALS:
        network = decoder  # the names are still true
    linear = [name for name, m in network.named_modules() if isinstance(m, nn.Linear | Conv1D) and name not in own]
    names = sorted({name.rpartition(".")[2] for name in linear})
    if network is not decoder:
        for changes in ({"target_modules": "all-linear"}, {"target_modules": "all-linear", "lora_dropout": 0.0}):
            if _works(network, config.model_copy(update=changes), own):
                break
        else:
            changes = {}
        accepted = [
            name for name in names if _works(network, config.model_copy(update={"target_modules": [name]}), own)
        ]
    else:
        changes, accepted = {"target_modules": "all-linear"}, names
    listed = ",".join(accepted)
    if not changes:
        return f"Try lora.target_modules=[{listed}]" if accepted else "Try lora=none, which trains the head alone"
    more = f", or some of {', '.join(accepted)}" if accepted else ""
    dropout = " lora.lora_dropout=0" if "lora_dropout" in changes else ""
    return f"Try lora.target_modules=all-linear{dropout}{more}"


def _works(network: Any, config: LoraConfig, own: list[str]) -> bool:
    try:
        _adapted(deepcopy(network), config, own)
    except _REFUSALS:
        return False
    return True
