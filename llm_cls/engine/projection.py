"""Linear layers with their adapters, forward and backward.

``y = W x + b + s B A dropout(x)`` (Hu et al., 2021). ``W`` and ``b`` are frozen, so the backward pass is one matrix
product less than that of autograd, and layers of one input (query, key and value of Llama) are one product. The
adapters' float32 master weights are cast to the dtype of the arithmetic once per pass.

Where ``x`` is the output of a norm on a GPU, ``s B`` lies beside ``W`` in memory and ``A dropout(x)`` beside ``x``, so
that one product of slightly longer rows computes both terms; a second product would read and write all of ``y``.
Biases are left to the kernels that read ``y`` next, because a product that adds them is up to 8 % slower.

With ``fp8`` the frozen weights and their inputs are float8 with a scale per row, forward and backward; the adapters
are unchanged. The weights are rounded once, in both orientations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_cls.engine import kernels
from llm_cls.engine.kernels import add_dropout, dropout
from llm_cls.engine.lora import LoraParts, base_layer, lora_parts
from llm_cls.engine.tensors import FP8_MAX, DropoutMask, DropoutState, Operand, OperandFormat

_FP8_ROWS = 64  # with fewer rows fp8 is not faster
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

SavedProjection = list[tuple[Tensor, Tensor]]  # per adapter dropout(x) and A dropout(x)


@dataclass
class Adapter:
    """A LoRA adapter of some outputs of a projection.

    Attributes:
        a: The master weight, shape ``(r, in_features)``.
        b: The master weight, shape ``(rows, r)``.
        scaling: ``s``.
        p: Dropout of its input.
        rows: The outputs of the projection that it changes.
        columns: Where its ``A dropout(x)`` lies behind the input.
        a_cast: ``a`` in the dtype of the arithmetic.
        b_cast: ``s b``, likewise.
        stream: Its number in the network, for dropout.
    """

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    p: float
    rows: slice
    columns: slice
    a_cast: Tensor
    b_cast: Tensor
    stream: int = 0

    def mask(self, dropout_state: DropoutState | None) -> DropoutMask | None:
        """The mask of its input; None where nothing is dropped."""
        return DropoutMask(self.p, dropout_state, self.stream) if dropout_state is not None and self.p else None


class Projection:
    """Linear layers of one input as one matrix product.

    Attributes:
        weight: Shape ``(out_features, in_features)``.
        bias: Shape ``(out_features,)``, or None.
        adapters: Of the layers that have one.
    """

    def __init__(self, layers: Sequence[nn.Module], fp8: bool, after_norm: bool) -> None:
        """Takes ``nn.Linear`` layers, some of them inside PEFT's; their weights become views of one tensor.

        Args:
            layers: Layers of one input.
            fp8: Whether the frozen weights are float8.
            after_norm: Whether the input is the output of ``kernels.norm``, which can allocate extra columns.
        """
        bases = [base_layer(layer) for layer in layers]
        parts = [lora_parts(layer) for layer in layers]
        ranks = [0 if part is None else part.a.shape[0] for part in parts]
        first = bases[0].weight
        rank = sum(ranks)
        self._extra_columns = rank if after_norm and kernels.uses_triton(first) and rank % 8 == 0 and not fp8 else 0
        out_features, in_features = sum(base.out_features for base in bases), bases[0].in_features
        moves = len(bases) > 1 or self._extra_columns > 0
        self._extended_weight = first.detach()
        if moves:
            self._extended_weight = first.new_zeros(out_features, in_features + self._extra_columns)
        self.weight = self._extended_weight[:, :in_features]
        self.bias = None if bases[0].bias is None else torch.cat([base.bias.detach() for base in bases])
        self.adapters: list[Adapter] = []
        row = column = 0
        for base, part, size in zip(bases, parts, ranks, strict=True):
            rows, columns = slice(row, row + base.out_features), slice(column, column + size)
            row, column = rows.stop, columns.stop
            if moves:
                self.weight[rows] = base.weight.detach()
                base.weight.data = self.weight[rows]  # so that memory holds one copy, not two
            if part is not None:
                self.adapters.append(self._adapter(part, rows, columns))
        divisible = in_features % 16 == 0 and out_features % 16 == 0
        self._fp8 = [_quantized(self.weight), _quantized(self.weight.t())] if fp8 and divisible else []

    @property
    def pending_bias(self) -> Tensor | None:
        """The bias that ``forward`` leaves to the next Triton kernel; None elsewhere, where it adds the bias itself."""
        return self.bias if kernels.uses_triton(self.weight) else None

    def operand_format(self, rows: int) -> OperandFormat:
        """The formats in which ``forward`` and, except for the extra columns, ``backward`` need so many rows."""
        fp8 = bool(self._fp8) and rows >= _FP8_ROWS
        return OperandFormat(values=not fp8 or bool(self.adapters), fp8=fp8, extra_columns=self._extra_columns)

    def forward(
        self, x: Operand, dropout_state: DropoutState | None, add_bias: bool = False
    ) -> tuple[Tensor, SavedProjection]:
        """The outputs for ``x``, and what ``backward`` needs.

        Args:
            x: Shape ``(rows, in_features)``, in ``operand_format``.
            dropout_state: Of the batch; None: no dropout.
            add_bias: Whether the bias is added on every device.

        Returns:
            ``(y, saved)`` with ``y`` of shape ``(rows, out_features)``.
        """
        bias = self.bias if add_bias or self.pending_bias is None else None
        saved = []
        extended = _extended(x.values, self._extra_columns)
        for adapter in self.adapters:
            mask = adapter.mask(dropout_state)
            dropped = x.tensor if mask is None else dropout(x.tensor, mask)
            down = _linear(dropped, adapter.a_cast, None)
            if extended is not None:
                extended[:, x.tensor.shape[1] :][:, adapter.columns] = down
            saved.append((dropped, down))
        if extended is not None:
            return F.linear(extended, self._extended_weight, bias), saved
        y = _linear(x.tensor, self.weight, bias) if x.fp8 is None else _fp8_product(x, self._fp8[0], bias)
        for adapter, (_, down) in zip(self.adapters, saved, strict=True):
            y[:, adapter.rows].addmm_(down, adapter.b_cast.t())
        return y, saved

    def backward(
        self,
        grad: Operand,
        saved: SavedProjection,
        dropout_state: DropoutState | None,
        gradients: dict[nn.Parameter, Tensor],
        need_input: bool,
    ) -> Tensor | None:
        """Gradient with respect to the input, where it is needed; those of the adapters go into ``gradients``.

        Args:
            grad: With respect to the output, shape ``(rows, out_features)``.
            saved: What ``forward`` returned.
            dropout_state: That of ``forward``.
            gradients: Receives the gradient of every adapter weight; those of ``b`` still lack the factor ``s``.
            need_input: Whether a trained weight lies before this layer.
        """
        result = None
        if need_input:
            if grad.fp8 is None:
                result = _linear(grad.tensor, self.weight.t(), None)
            else:
                result = _fp8_product(grad, self._fp8[1], None)
        for adapter, (dropped, down) in zip(self.adapters, saved, strict=True):
            part = grad.tensor[:, adapter.rows]
            down_grad = _linear(part, adapter.b_cast.t(), None)
            gradients[adapter.b] = _product_over_rows(part, down)
            gradients[adapter.a] = _product_over_rows(down_grad, dropped)
            if result is None:
                continue
            mask = adapter.mask(dropout_state)
            if mask is None:
                result.addmm_(down_grad, adapter.a_cast)
            else:
                add_dropout(result, _linear(down_grad, adapter.a_cast.t(), None), mask)
        return result

    def _adapter(self, part: LoraParts, rows: slice, columns: slice) -> Adapter:
        b_cast = torch.empty_like(part.b, dtype=self.weight.dtype)
        if self._extra_columns:
            b_cast = self._extended_weight[rows, self.weight.shape[1] :][:, columns]
        a_cast = torch.empty_like(part.a, dtype=self.weight.dtype)
        return Adapter(part.a, part.b, part.scaling, part.p, rows, columns, a_cast, b_cast)


def cast_adapters(adapters: Sequence[Adapter]) -> None:
    """Updates the casts of all adapters from their master weights."""
    if not adapters:
        return
    torch._foreach_copy_([x.a_cast for x in adapters], [x.a.detach() for x in adapters])
    scaled = torch._foreach_mul([x.b.detach() for x in adapters], [x.scaling for x in adapters])
    torch._foreach_copy_([x.b_cast for x in adapters], scaled)


def _extended(x: Tensor | None, extra_columns: int) -> Tensor | None:
    """``x`` with the extra columns that lie behind it in memory; None where there are none."""
    if x is None or not extra_columns or x.stride(0) != x.shape[1] + extra_columns:
        return None
    return x.as_strided((x.shape[0], x.shape[1] + extra_columns), x.stride())


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight in float8 with a scale per row, and the scales."""
    scale = weight.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / FP8_MAX
    return (weight.float() / scale).to(torch.float8_e4m3fn).contiguous(), scale.t()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``, on a CPU by oneDNN: PyTorch's choice, MKL, is half as fast on processors of other makers."""
    if x.is_cuda or x.dtype != torch.float32 or not _HAS_ONEDNN:
        return F.linear(x, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def _product_over_rows(a: Tensor, b: Tensor) -> Tensor:
    """``a^T b``; on a CPU with the smaller side first, which is three times as fast."""
    if a.is_cuda or a.shape[1] <= b.shape[1]:
        return a.t() @ b if a.is_cuda else _linear(a.t(), b.t(), None)
    return _linear(b.t(), a.t(), None).t().contiguous()


def _fp8_product(x: Operand, weight: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
    assert x.fp8 is not None and x.scale is not None
    values, scale = weight
    return torch._scaled_mm(x.fp8, values.t(), x.scale, scale, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True)
