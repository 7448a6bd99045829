"""Linear layers with their adapters, forward and backward.

``y = W x + b + s B A dropout(x)`` (Hu et al., 2021). ``W`` and ``b`` are frozen, so the backward pass is one matrix
product less than that of autograd, and layers of one input (query, key and value of Llama) are one product. The
adapters' float32 master weights are cast to the dtype of the arithmetic once per pass.

On a GPU ``s B`` lies beside ``W`` in memory. Where ``A dropout(x)`` lies beside ``x``, one product of slightly longer
rows computes both terms; a second product would read and write all of ``y``. Backward, one product of slightly more
columns gives the gradients with respect to ``x`` and to ``A dropout(x)``. Biases are left to the kernels that read
``y`` next, because a product that adds them is up to 8 % slower.

With ``fp8`` the frozen weights and their inputs are float8 with a scale per row, forward and backward; the adapters
are unchanged. The weights are rounded once, in both orientations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_cls.engine import kernels
from llm_cls.engine.lora import Adapter, base_layer, lora_parts
from llm_cls.engine.lora_products import SavedDown, down, down_backward
from llm_cls.engine.products import fp8_product, linear, product_over_rows, quantized
from llm_cls.engine.tensors import DropoutMask, DropoutState, Operand, OperandFormat

_FP8_ROWS = 64  # with fewer rows fp8 is not faster


class Projection:
    """Linear layers of one input as one matrix product.

    Attributes:
        weight: Shape ``(out_features, in_features)``.
        bias: Shape ``(out_features,)``, or None.
        adapters: Of the layers that have one.
    """

    def __init__(self, layers: Sequence[nn.Module], fp8: bool) -> None:
        """Takes ``nn.Linear`` layers, some of them inside PEFT's; their weights become views of one tensor.

        Args:
            layers: Layers of one input. Their adapters have one rank and one dropout.
            fp8: Whether the frozen weights are float8.
        """
        bases = [base_layer(layer) for layer in layers]
        parts = [lora_parts(layer) for layer in layers]
        ranks = [part.a.shape[0] for part in parts if part is not None]
        assert len(set(ranks)) <= 1
        first, rank = bases[0].weight, sum(ranks)
        self._extra_columns = rank if kernels.uses_triton(first) and rank % 8 == 0 and not fp8 else 0
        out_features, in_features = sum(base.out_features for base in bases), bases[0].in_features
        moves = len(bases) > 1 or self._extra_columns > 0
        self._extended_weight = first.detach()
        if moves:
            self._extended_weight = first.new_zeros(out_features, in_features + self._extra_columns)
        self.weight = self._extended_weight[:, :in_features]
        self.bias = None if bases[0].bias is None else torch.cat([base.bias.detach() for base in bases])
        self._a_cast = first.new_empty(rank, in_features)
        self.adapters: list[Adapter] = []
        row = column = 0
        for base, part in zip(bases, parts, strict=True):
            rows, row = slice(row, row + base.out_features), row + base.out_features
            if moves:
                self.weight[rows] = base.weight.detach()
                base.weight.data = self.weight[rows]  # so that memory holds one copy, not two
            if part is None:
                continue
            columns, column = slice(column, column + ranks[0]), column + ranks[0]
            b_cast = torch.empty_like(part.b, dtype=first.dtype)
            if self._extra_columns:
                b_cast = self._extended_weight[rows, in_features:][:, columns]
            self.adapters.append(Adapter(part.a, part.b, part.scaling, part.p, rows, self._a_cast[columns], b_cast))
        divisible = in_features % 16 == 0 and out_features % 16 == 0
        self._fp8 = [quantized(self.weight), quantized(self.weight.t())] if fp8 and divisible else []

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
    ) -> tuple[Tensor, SavedDown | None]:
        """The outputs for ``x``, and what ``backward`` needs.

        Args:
            x: Shape ``(rows, in_features)``, in ``operand_format``.
            dropout_state: Of the batch; None: no dropout.
            add_bias: Whether the bias is added on every device.

        Returns:
            ``(y, saved)`` with ``y`` of shape ``(rows, out_features)``.
        """
        bias = self.bias if add_bias or self.pending_bias is None else None
        if not self.adapters:
            return self._frozen(x, bias), None
        extended = _extended(x.tensor, self._extra_columns)
        columns = None if extended is None else extended[:, x.tensor.shape[1] :]
        saved = down(x.tensor, self._a_cast, len(self.adapters), self._mask(dropout_state), columns)
        if extended is not None:
            return F.linear(extended, self._extended_weight, bias), saved
        y = self._frozen(x, bias)
        for adapter, part in zip(self.adapters, saved.down.chunk(len(self.adapters), 1), strict=True):
            y[:, adapter.rows].addmm_(part, adapter.b_cast.t())
        return y, saved

    def backward(
        self,
        grad: Operand,
        saved: SavedDown | None,
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
        result, down_grad = self._input_gradients(grad, need_input)
        if saved is None or down_grad is None:
            return result
        mask = self._mask(dropout_state)
        found = down_backward(saved, down_grad, self._a_cast, len(self.adapters), mask, result)
        downs = saved.down.chunk(len(self.adapters), 1)
        for adapter, part, a_gradient in zip(self.adapters, downs, found, strict=True):
            gradients[adapter.a] = a_gradient
            gradients[adapter.b] = product_over_rows(grad.tensor[:, adapter.rows], part)
        return result

    def _input_gradients(self, grad: Operand, need_input: bool) -> tuple[Tensor | None, Tensor | None]:
        """Through ``W`` and through ``B``: with respect to ``x`` and to ``A dropout(x)``."""
        in_features = self.weight.shape[1]
        if self._extra_columns:
            if not need_input:
                return None, linear(grad.tensor, self._extended_weight[:, in_features:].t())
            both = linear(grad.tensor, self._extended_weight.t())
            return both[:, :in_features], both[:, in_features:]
        result = None
        if need_input:
            result = linear(grad.tensor, self.weight.t()) if grad.fp8 is None else fp8_product(grad, self._fp8[1], None)
        parts = [linear(grad.tensor[:, adapter.rows], adapter.b_cast.t()) for adapter in self.adapters]
        return result, torch.cat(parts, 1) if parts else None

    def _frozen(self, x: Operand, bias: Tensor | None) -> Tensor:
        return linear(x.tensor, self.weight, bias) if x.fp8 is None else fp8_product(x, self._fp8[0], bias)

    def _mask(self, dropout_state: DropoutState | None) -> DropoutMask | None:
        """The mask of the first adapter's input; None where nothing is dropped."""
        first = self.adapters[0]
        return DropoutMask(first.p, dropout_state, first.stream) if dropout_state is not None and first.p else None


def _extended(x: Tensor, extra_columns: int) -> Tensor | None:
    """``x`` with the extra columns that lie behind it in memory; None where there are none."""
    if not extra_columns or x.stride(0) != x.shape[1] + extra_columns:
        return None
    return x.as_strided((x.shape[0], x.shape[1] + extra_columns), x.stride())
