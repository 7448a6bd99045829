"""PEFT's LoRA layers as the engine reads them: which it can compute itself, and what they consist of."""

from typing import Any, NamedTuple

from peft.tuners.lora.layer import Linear as PeftLinear
from torch import nn


class LoraParts(NamedTuple):
    """The active adapter of a LoRA layer: ``y = W x + b + scaling B A dropout(x)`` (Hu et al., 2021).

    Attributes:
        a: The float32 master weight ``A``, shape ``(r, in_features)``.
        b: The float32 master weight ``B``, shape ``(out_features, r)``.
        scaling: Its factor.
        dropout: The module that drops elements of its input.
    """

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    dropout: nn.Module

    @property
    def p(self) -> float:
        """Probability that an element of the input is dropped."""
        return float(getattr(self.dropout, "p", 0.0))


def base_layer(layer: nn.Module) -> Any:
    """The frozen linear layer, inside PEFT's or not."""
    return getattr(layer, "base_layer", layer)


def lora_parts(layer: nn.Module) -> LoraParts | None:
    """The adapter of a layer; None where it has none."""
    if not isinstance(layer, PeftLinear):
        return None
    lora: Any = layer
    (name,) = lora.active_adapters
    return LoraParts(
        lora.lora_A[name].weight, lora.lora_B[name].weight, float(lora.scaling[name]), lora.lora_dropout[name]
    )


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is ``nn.Linear`` or ordinary LoRA around it: no DoRA, no bias in the adapter, not merged."""
    if type(layer) is nn.Linear:
        return True
    if type(layer) is not PeftLinear:
        return False
    lora: Any = layer
    return (
        type(lora.base_layer) is nn.Linear
        and not lora.lora_variant
        and not lora.merged
        and len(lora.active_adapters) == 1
        and not any(lora.lora_bias.values())
    )
