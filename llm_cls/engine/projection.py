"""Linear layers with their adapters, forward and backward.

``y = W x + b + s B A dropout(x)`` (Hu et al., 2021). ``W`` and ``b`` are frozen, so the backward pass is one matrix
product less than that of autograd, and layers of one input (query, key and value of Llama) are one product. The
adapters' float32 master weights are cast to the type of the arithmetic once per pass.

Where ``x`` comes out of a norm on a GPU, ``s B`` lies beside ``W`` in memory and ``A dropout(x)`` beside ``x``, so that
one product of slightly longer rows gives both terms; a second one would read and write all of ``y`` again. Biases are
left to the kernels that read ``y`` next, because a product that adds them is up to 8 % slower.

With ``fp8`` the frozen weights and their inputs are float8 with a scale per row, forward and backward; the adapters
stay as they are. The weights are rounded once, in both orientations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional as F

from llm_cls.engine.kernels import add_dropout, dropout
from llm_cls.engine.tensors import FP8_MAX, Draw, Form, Mask, Rows

_FP8_ROWS = 64  # fewer rows gain nothing
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@dataclass
class Adapter:
    """A LoRA adapter of a part of a projection.

    Attributes:
        a, b: The master weights, shapes ``(r, in_features)`` and ``(rows, r)``.
        scaling: ``s``.
        p: Dropout of its input.
        rows: The outputs of the projection that it changes.
        columns: Where its ``A dropout(x)`` lies behind the input.
        stream: Its number in the network, for dropout.
        a_cast: ``a`` in the type of the arithmetic.
        b_cast: ``s b``, likewise.
    """

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    p: float
    rows: slice
    columns: slice
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

    def __init__(self, layers: Sequence[nn.Module], first_stream: int, fp8: bool, widened: bool) -> None:
        """Takes ``nn.Linear`` layers, some of them inside PEFT's; their weights are views of one tensor from now on.

        Args:
            layers: Layers of one input.
            first_stream: Number of the first adapter among them.
            fp8: Whether the frozen weights are float8.
            widened: Whether the input comes with spare columns: out of ``kernels.norm``.
        """
        bases: list[Any] = [getattr(layer, "base_layer", layer) for layer in layers]
        first = bases[0].weight
        rank = sum(_rank(layer) for layer in layers)
        self._spare = rank if widened and first.is_cuda and rank % 8 == 0 and not fp8 else 0
        out_features, in_features = sum(base.out_features for base in bases), bases[0].in_features
        moves = len(bases) > 1 or self._spare > 0
        self._wide = first.detach()
        if moves:
            self._wide = first.new_zeros(out_features, in_features + self._spare)
        self.weight = self._wide[:, :in_features]
        self.bias = None if bases[0].bias is None else torch.cat([base.bias.detach() for base in bases])
        self.adapters: list[Adapter] = []
        row = column = 0
        for layer, base in zip(layers, bases, strict=True):
            rows, columns = slice(row, row + base.out_features), slice(column, column + _rank(layer))
            row, column = rows.stop, columns.stop
            if moves:
                self.weight[rows] = base.weight.detach()
                base.weight.data = self.weight[rows]  # one copy in memory, not two
            if isinstance(layer, PeftLinear):
                self.adapters.append(self._adapter(layer, rows, columns, first_stream + len(self.adapters)))
        divisible = in_features % 16 == 0 and out_features % 16 == 0
        self._fp8 = [_quantized(self.weight), _quantized(self.weight.t())] if fp8 and divisible else []

    @property
    def offset(self) -> Tensor | None:
        """The bias that ``forward`` leaves out; on a CPU it adds it."""
        return self.bias if self.weight.is_cuda else None

    def form(self, rows: int) -> Form:
        """In which forms ``forward`` and, but for the spare columns, ``backward`` take so many rows."""
        fp8 = bool(self._fp8) and rows >= _FP8_ROWS
        return Form(plain=not fp8 or bool(self.adapters), fp8=fp8, spare=self._spare)

    def forward(self, x: Rows, draw: Draw | None, bias: bool = False) -> tuple[Tensor, Saved]:
        """The outputs for ``x``, and what ``backward`` needs.

        Args:
            x: Shape ``(rows, in_features)``, as ``form`` says.
            draw: Of the masks; None: no dropout.
            bias: Whether the bias is added in any case.

        Returns:
            ``(y, saved)`` with ``y`` of shape ``(rows, out_features)``.
        """
        added = self.bias if bias or self.offset is None else None
        saved = []
        wide = _widened(x.plain, self._spare)
        for adapter in self.adapters:
            dropped = x.tensor
            if draw is not None and adapter.p:
                dropped = dropout(dropped, Mask(adapter.p, draw, adapter.stream))
            small = _linear(dropped, adapter.a_cast, None)
            if wide is not None:
                wide[:, x.tensor.shape[1] :][:, adapter.columns] = small
            saved.append((dropped, small))
        if wide is not None:
            return F.linear(wide, self._wide, added), saved
        y = _linear(x.tensor, self.weight, added) if x.fp8 is None else _product(x, self._fp8[0], added)
        for adapter, (_, small) in zip(self.adapters, saved, strict=True):
            y[:, adapter.rows].addmm_(small, adapter.b_cast.t())
        return y, saved

    def backward(
        self, grad: Rows, saved: Saved, draw: Draw | None, gradients: dict[nn.Parameter, Tensor], need_input: bool
    ) -> Tensor | None:
        """Gradient with respect to the input, where it is needed; those of the adapters go into ``gradients``.

        Args:
            grad: With respect to the output, shape ``(rows, out_features)``.
            saved: What ``forward`` gave.
            draw: That of ``forward``.
            gradients: Gets the gradient of every adapter weight; those of ``b`` still lack the factor ``s``.
            need_input: Whether anything trained lies before this layer.
        """
        result = None
        if need_input:
            if grad.fp8 is None:
                result = _linear(grad.tensor, self.weight.t(), None)
            else:
                result = _product(grad, self._fp8[1], None)
        for adapter, (dropped, small) in zip(self.adapters, saved, strict=True):
            part = grad.tensor[:, adapter.rows]
            small_grad = _linear(part, adapter.b_cast.t(), None)
            gradients[adapter.b] = _over_rows(part, small)
            gradients[adapter.a] = _over_rows(small_grad, dropped)
            if result is None:
                continue
            if draw is not None and adapter.p:
                from_input = _linear(small_grad, adapter.a_cast.t(), None)
                add_dropout(result, from_input, Mask(adapter.p, draw, adapter.stream))
            else:
                result.addmm_(small_grad, adapter.a_cast)
        return result

    def _adapter(self, layer: Any, rows: slice, columns: slice, stream: int) -> Adapter:
        (name,) = layer.active_adapters
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        p = float(getattr(layer.lora_dropout[name], "p", 0.0))
        b_cast = torch.empty_like(b, dtype=self.weight.dtype)
        if self._spare:
            b_cast = self._wide[rows, self.weight.shape[1] :][:, columns]
        a_cast = torch.empty_like(a, dtype=self.weight.dtype)
        return Adapter(a, b, float(layer.scaling[name]), p, rows, columns, stream, a_cast, b_cast)


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


def cast_adapters(adapters: Sequence[Adapter]) -> None:
    """Brings the casts of all adapters up to date with their master weights."""
    if not adapters:
        return
    torch._foreach_copy_([x.a_cast for x in adapters], [x.a.detach() for x in adapters])
    scaled = torch._foreach_mul([x.b.detach() for x in adapters], [x.scaling for x in adapters])
    torch._foreach_copy_([x.b_cast for x in adapters], scaled)


def _rank(layer: Any) -> int:
    return layer.r[layer.active_adapters[0]] if isinstance(layer, PeftLinear) else 0


def _widened(x: Tensor | None, spare: int) -> Tensor | None:
    """``x`` with the free columns that lie behind it in memory; None where there are none."""
    if x is None or not spare or x.stride(0) != x.shape[1] + spare:
        return None
    return x.as_strided((x.shape[0], x.shape[1] + spare), x.stride())


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight in float8 with a scale per row, and the scales."""
    scale = weight.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / FP8_MAX
    return (weight.float() / scale).to(torch.float8_e4m3fn).contiguous(), scale.t()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``, on a CPU by oneDNN: PyTorch takes MKL, which is half as fast on processors of other makers."""
    if x.is_cuda or x.dtype != torch.float32 or not _HAS_ONEDNN:
        return F.linear(x, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def _over_rows(a: Tensor, b: Tensor) -> Tensor:
    """``a^T b``; on a CPU with the smaller side first, which is three times as fast."""
    if a.is_cuda or a.shape[1] <= b.shape[1]:
        return a.t() @ b if a.is_cuda else _linear(a.t(), b.t(), None)
    return _linear(b.t(), a.t(), None).t().contiguous()


def _product(x: Rows, weight: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
    assert x.fp8 is not None and x.scale is not None
    values, scale = weight
    return torch._scaled_mm(x.fp8, values.t(), x.scale, scale, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True)
