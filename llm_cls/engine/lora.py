"""PEFT's LoRA layers as the engine reads them: which it can compute itself, and what they consist of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn

from llm_cls.engine import kernels


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


class Casts:
    """The casts of some adapters, which follow their master weights."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        """Takes the adapters; casts nothing yet."""
        self._adapters = adapters
        self._given: list[float] = []
        self._table: Any = None

    def update(self) -> None:
        """Casts all of them."""
        adapters = self._adapters
        if not adapters:
            return
        if kernels.uses_triton(adapters[0].a_cast):
            self._update_by_triton()
            return
        torch._foreach_copy_([x.a_cast for x in adapters], [x.a.detach() for x in adapters])
        scaled = torch._foreach_mul([x.b.detach() for x in adapters], [x.scaling for x in adapters])
        torch._foreach_copy_([x.b_cast for x in adapters], scaled)

    def _update_by_triton(self) -> None:
        casts = kernels.triton("casts")
        adapters = self._adapters
        given = [x for adapter in adapters for x in (adapter.a.data_ptr(), adapter.b.data_ptr(), adapter.scaling)]
        if given != self._given:
            wanted = [(x.a, x.a_cast, 1.0) for x in adapters] + [(x.b, x.b_cast, x.scaling) for x in adapters]
            self._given, self._table = given, casts.table(wanted)
        casts.cast(*self._table, adapters[0].a, adapters[0].a_cast)


class AdapterGradients:
    """The gradients of all adapters as parts of one tensor, so that one copy moves them all."""

    def __init__(self, adapters: Sequence[Adapter], memory: Tensor | None = None) -> None:
        """Takes the adapters of a network, and the tensor to use; None: new memory."""
        self._adapters = adapters
        weights = [x.a for x in adapters] + [x.b for x in adapters]  # those of one projection are next to one another
        sizes = [weight.numel() for weight in weights]
        self._memory = weights[0].new_empty(sum(sizes)) if memory is None else memory
        parts = self._memory.detach().split(sizes)
        self._of: dict[int, Tensor] = {
            id(weight): part.view_as(weight) for weight, part in zip(weights, parts, strict=True)
        }

    def of_a(self, adapters: Sequence[Adapter]) -> Tensor:
        """Those of ``A`` of all adapters of one projection, one below the other: shape ``(n * r, in_features)``."""
        first = self._of[id(adapters[0].a)]
        return first.as_strided((len(adapters) * first.shape[0], first.shape[1]), first.stride())

    def of_b(self, adapter: Adapter) -> Tensor:
        """That of ``B``, shape ``(rows, r)``; until ``scale`` it lacks the factor ``s``."""
        return self._of[id(adapter.b)]

    def scale(self) -> None:
        """Multiplies those of ``B`` by ``s``."""
        torch._foreach_mul_([self.of_b(x) for x in self._adapters], [x.scaling for x in self._adapters])

    def copy(self) -> "AdapterGradients":
        """A copy in memory of its own."""
        return AdapterGradients(self._adapters, self._memory.clone())

    def of(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Those of some of the weights."""
        return [self._of[id(parameter)] for parameter in parameters]
