"""PEFT's LoRA layers as the engine reads them: which it can compute itself, and what they consist of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn


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


@dataclass
class Adapter:
    """A LoRA adapter of some outputs of a projection.

    Attributes:
        a: The master weight, shape ``(r, in_features)``.
        b: The master weight, shape ``(rows, r)``.
        scaling: ``s``.
        p: Dropout of its input.
        rows: The outputs of the projection that it changes.
        a_cast: ``a`` in the dtype of the arithmetic.
        b_cast: ``s b``, likewise.
        stream: Its number in the network, for dropout.
    """

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    p: float
    rows: slice
    a_cast: Tensor
    b_cast: Tensor
    stream: int = 0


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


def cast_adapters(adapters: Sequence[Adapter]) -> None:
    """Updates the casts of all adapters from their master weights."""
    if not adapters:
        return
    torch._foreach_copy_([x.a_cast for x in adapters], [x.a.detach() for x in adapters])
    scaled = torch._foreach_mul([x.b.detach() for x in adapters], [x.scaling for x in adapters])
    torch._foreach_copy_([x.b_cast for x in adapters], scaled)
