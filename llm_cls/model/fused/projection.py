"""Linear layers with their adapters, forward and backward.

``y = W x + b + s B A dropout(x)`` (Hu et al., 2021). ``W`` and ``b`` are frozen, so the backward pass is one matrix
product less than that of autograd, and layers of one input (query, key and value of Llama) are one product. The
adapters' float32 master weights are cast to the type of the arithmetic once per pass, all of them in one kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional as F

from llm_cls.model.fused.kernels import Mask, add_dropout, dropout


@dataclass
class Adapter:
    """A LoRA adapter of a part of a projection.

    Attributes:
        a, b: The master weights, shapes ``(r, in_features)`` and ``(rows, r)``.
        scaling: ``s``.
        p: Dropout of its input.
        rows: The outputs of the projection that it changes.
        stream: Its number in the network, for dropout.
        a_cast: ``a`` in the type of the arithmetic.
        b_cast: ``s b``, likewise.
    """

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    p: float
    rows: slice
    stream: int
    a_cast: Tensor
    b_cast: Tensor


Saved = list[tuple[Tensor, Tensor]]


class Projection:
    """Linear layers of one input as one matrix product.

    Attributes:
        weight: Shape ``(out_features, in_features)``.
        bias: Shape ``(out_features,)``, or None.
        adapters: Of the layers that have one.
    """

    def __init__(self, layers: Sequence[nn.Module], first_stream: int) -> None:
        """Takes ``nn.Linear`` layers, some of them inside PEFT's; several share one tensor from now on."""
        bases: list[nn.Linear] = [getattr(layer, "base_layer", layer) for layer in layers]
        self.weight = bases[0].weight.detach()
        self.bias = None if bases[0].bias is None else bases[0].bias.detach()
        if len(bases) > 1:
            self.weight = torch.cat([base.weight.detach() for base in bases])
            self.bias = None if self.bias is None else torch.cat([base.bias.detach() for base in bases])
        self.adapters: list[Adapter] = []
        start = 0
        for layer, base in zip(layers, bases, strict=True):
            rows = slice(start, start + base.out_features)
            start = rows.stop
            base.weight.data = self.weight[rows]  # one copy in memory, not two
            if isinstance(layer, PeftLinear):
                self.adapters.append(_adapter(layer, rows, first_stream + len(self.adapters), self.weight.dtype))

    def forward(self, x: Tensor, rng: Tensor | None) -> tuple[Tensor, Saved]:
        """The outputs for ``x``, and what ``backward`` needs.

        Args:
            x: Shape ``(tokens, in_features)``.
            rng: See ``kernels.Mask``; None: no dropout.

        Returns:
            ``(y, saved)`` with ``y`` of shape ``(tokens, out_features)``.
        """
        y = F.linear(x, self.weight, self.bias)
        saved = []
        for adapter in self.adapters:
            dropped = dropout(x, Mask(adapter.p, rng, adapter.stream)) if rng is not None and adapter.p else x
            small = dropped @ adapter.a_cast.t()
            y[:, adapter.rows].addmm_(small, adapter.b_cast.t())
            saved.append((dropped, small))
        return y, saved

    def backward(
        self, grad: Tensor, saved: Saved, rng: Tensor | None, gradients: dict[nn.Parameter, Tensor], need_input: bool
    ) -> Tensor | None:
        """Gradient with respect to the input, where it is needed; those of the adapters go into ``gradients``.

        Args:
            grad: With respect to the output, shape ``(tokens, out_features)``.
            saved: What ``forward`` gave.
            rng: That of ``forward``.
            gradients: Gets the gradient of every adapter weight; those of ``b`` still lack the factor ``s``.
            need_input: Whether anything trained lies before this layer.
        """
        result = grad @ self.weight if need_input else None
        for adapter, (dropped, small) in zip(self.adapters, saved, strict=True):
            part = grad[:, adapter.rows]
            small_grad = part @ adapter.b_cast
            gradients[adapter.b] = part.t() @ small
            gradients[adapter.a] = small_grad.t() @ dropped
            if result is None:
                continue
            if rng is not None and adapter.p:
                add_dropout(result, small_grad @ adapter.a_cast, Mask(adapter.p, rng, adapter.stream))
            else:
                result.addmm_(small_grad, adapter.a_cast)
        return result


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is what ``Projection`` computes: linear, or LoRA around it without DoRA or a bias of its own."""
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


def _adapter(layer: Any, rows: slice, stream: int, dtype: torch.dtype) -> Adapter:
    (name,) = layer.active_adapters
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    p = float(getattr(layer.lora_dropout[name], "p", 0.0))
    casts = torch.empty_like(a, dtype=dtype), torch.empty_like(b, dtype=dtype)
    return Adapter(a, b, float(layer.scaling[name]), p, rows, stream, *casts)


def cast_adapters(adapters: Sequence[Adapter]) -> None:
    """Brings the casts of all adapters up to date with their master weights."""
    torch._foreach_copy_([x.a_cast for x in adapters], [x.a.detach() for x in adapters])
    scaled = torch._foreach_mul([x.b.detach() for x in adapters], [x.scaling for x in adapters])
    torch._foreach_copy_([x.b_cast for x in adapters], scaled)
