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
from llm_cls.engine.lora import Adapter, AdapterGradients, base_layer, lora_parts
from llm_cls.engine.lora_products import SavedDown, adapter_part, down, down_backward
from llm_cls.engine.products import fp8_product, linear, product_over_rows, quantized
from llm_cls.engine.tensors import AdapterPart, DropoutMask, JointState, Operand, OperandFormat, RowState

_FP8_ROWS = 64  # with fewer rows fp8 is not faster
_ALIGNMENT = 16  # Triton reads rows as vectors where a multiple of 16 elements lies between them, and nowhere else

SavedAdapters = SavedDown | list[SavedDown | None] | None  # for the backward pass: of one run, or of several


class Projection:
    """Linear layers of one input as one matrix product.

    Attributes:
        weight: Shape ``(out_features, in_features)``.
        bias: Shape ``(out_features,)``, or None.
        adapters: Of the layers that have one.
    """

    def __init__(self, layers: Sequence[nn.Module], fp8: bool, frozen: "Projection | None" = None) -> None:
        """Takes ``nn.Linear`` layers, some of them inside PEFT's; their weights become views of one tensor.

        Args:
            layers: Layers of one input. Their adapters have one rank and one dropout.
            fp8: Whether the frozen weights are float8.
            frozen: Has the same frozen weights, as one tensor already, and keeps them.
        """
        bases = [base_layer(layer) for layer in layers]
        parts = [lora_parts(layer) for layer in layers]
        ranks = [part.a.shape[0] for part in parts if part is not None]
        assert len(set(ranks)) <= 1
        first, rank = bases[0].weight, sum(ranks)
        extends = kernels.uses_triton(first) and rank % 8 == 0 and not fp8 and frozen is None
        self._extra_columns = rank if extends else 0
        out_features, in_features = sum(base.out_features for base in bases), bases[0].in_features
        moves = frozen is None and (len(bases) > 1 or self._extra_columns > 0)
        self._extended_weight = first.detach() if frozen is None else frozen.weight
        if moves:
            self._extended_weight = first.new_zeros(out_features, in_features + self._extra_columns)
        self.weight: Tensor = self._extended_weight[:, :in_features]
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
        self._fp8: list[tuple[Tensor, Tensor]] = [] if frozen is None else frozen._fp8
        if frozen is None and fp8 and divisible:
            self._fp8 = [quantized(self.weight), quantized(self.weight.t())]

    @property
    def saved_elements(self) -> int:
        """Elements per token that the adapters save: their input, a bit of 16 per element of it, and ``A``'s output."""
        size: int = self.weight.shape[1]
        bits = -(-size // 16)
        return size + sum(x.a.shape[0] + bits for x in self.adapters) if self.adapters else 0

    @property
    def pending_bias(self) -> Tensor | None:
        """The bias that ``forward`` leaves to the next Triton kernel; None elsewhere, where it adds the bias itself."""
        return self.bias if kernels.uses_triton(self.weight) else None

    def operand_format(self, rows: int) -> OperandFormat:
        """The formats in which ``forward`` and, except for the extra columns, ``backward`` need so many rows."""
        fp8 = bool(self._fp8) and rows >= _FP8_ROWS
        return OperandFormat(values=not fp8 or bool(self.adapters), fp8=fp8, extra_columns=self._allocated_columns)

    def forward(self, x: Operand, dropout_state: RowState, add_bias: bool = False) -> tuple[Tensor, SavedAdapters]:
        """The outputs for ``x``, and what ``backward`` needs.

        Args:
            x: Shape ``(rows, in_features)``, in ``operand_format``.
            dropout_state: Of the batch; None: no dropout.
            add_bias: Whether the bias is added on every device.

        Returns:
            ``(y, saved)`` with ``y`` of shape ``(rows, out_features)``.
        """
        extended = self._extended(x.tensor) if self._extra_columns else None
        if extended is None:
            y = self.frozen_product(x, add_bias)
            return y, self.add_adapters(y, x.values, dropout_state)
        bias = self.bias if add_bias or self.pending_bias is None else None
        columns = extended[:, x.tensor.shape[1] :]
        saved = down(x.tensor, self._a_cast, len(self.adapters), self._mask(dropout_state), columns)
        return F.linear(extended, self._extended_weight, bias), saved

    def frozen_product(self, x: Operand, add_bias: bool) -> Tensor:
        """``W x``, and ``b`` where nothing adds it later; see ``forward``."""
        bias = self.bias if add_bias or self.pending_bias is None else None
        return linear(x.tensor, self.weight, bias) if x.fp8 is None else fp8_product(x, self._fp8[0], bias)

    def add_adapters(self, y: Tensor, x: Tensor | None, dropout_state: RowState) -> SavedAdapters:
        """Adds ``s B A dropout(x)`` to ``y`` and returns what ``adapter_gradients`` needs; None without adapters."""
        if not self.adapters:
            return None
        assert x is not None
        saved = down(x, self._a_cast, len(self.adapters), self._mask(dropout_state))
        for adapter, part in zip(self.adapters, saved.down.chunk(len(self.adapters), 1), strict=True):
            y[:, adapter.rows].addmm_(part, adapter.b_cast.t())
        return saved

    def backward(
        self,
        grad: Operand,
        saved: SavedAdapters,
        dropout_state: RowState,
        gradients: AdapterGradients,
        need_input: bool,
    ) -> tuple[Tensor | None, AdapterPart | None]:
        """Gradient with respect to the input, where it is needed; those of the adapters go into ``gradients``.

        Args:
            grad: With respect to the output, shape ``(rows, out_features)``.
            saved: What ``forward`` returned.
            dropout_state: That of ``forward``.
            gradients: Receives the gradient of every adapter weight.
            need_input: Whether a trained weight lies before this layer.

        Returns:
            ``(gradient, part)``: what the adapters add may be left to the caller, who may have a kernel that does it.
        """
        in_features = self.weight.shape[1]
        if self._extra_columns and need_input:
            both = grad.tensor.new_empty(len(grad.tensor), in_features + self._allocated_columns)
            both = torch.mm(grad.tensor, self._extended_weight, out=both[:, : in_features + self._extra_columns])
            down_grad = both[:, in_features:]
            self.adapter_gradients(grad.tensor, saved, dropout_state, gradients, None, down_grad)
            assert isinstance(saved, SavedDown)
            part = adapter_part(saved, down_grad, self._a_cast, len(self.adapters), self._mask(dropout_state))
            return both[:, :in_features], part
        result = self.frozen_gradient(grad) if need_input else None
        if self.adapters:
            self.adapter_gradients(grad.tensor, saved, dropout_state, gradients, result)
        return result, None

    def frozen_gradient(self, grad: Operand) -> Tensor:
        """Gradient with respect to ``x`` through ``W``."""
        return linear(grad.tensor, self.weight.t()) if grad.fp8 is None else fp8_product(grad, self._fp8[1], None)

    def adapter_gradients(
        self,
        grad: Tensor,
        saved: SavedAdapters,
        dropout_state: RowState,
        gradients: AdapterGradients,
        total: Tensor | None,
        down_grad: Tensor | None = None,
    ) -> None:
        """The adapters' part of ``backward``.

        Args:
            grad: With respect to the output.
            saved: What ``add_adapters`` returned.
            dropout_state: See ``backward``.
            gradients: See ``backward``.
            total: Receives the gradient with respect to ``x``, which is added to it; None: it is not needed.
            down_grad: With respect to ``A dropout(x)``; None where it is still to be computed.
        """
        assert isinstance(saved, SavedDown)
        if down_grad is None:
            down_grad = self._down_gradient(grad)
        mask, target = self._mask(dropout_state), gradients.of_a(self.adapters)
        down_backward(saved, down_grad, self._a_cast, len(self.adapters), mask, total, target)
        for adapter, part in zip(self.adapters, saved.down.chunk(len(self.adapters), 1), strict=True):
            product_over_rows(grad[:, adapter.rows], part, gradients.of_b(adapter))

    def _down_gradient(self, grad: Tensor) -> Tensor:
        """Through ``B``: with respect to ``A dropout(x)``."""
        if self._extra_columns:
            return linear(grad, self._extended_weight[:, self.weight.shape[1] :].t())
        parts = [linear(grad[:, adapter.rows], adapter.b_cast.t()) for adapter in self.adapters]
        return torch.cat(parts, 1)

    @property
    def _allocated_columns(self) -> int:
        """The extra columns, and those that fill a row up."""
        extra = self._extra_columns
        return extra + -(self.weight.shape[1] + extra) % _ALIGNMENT if extra else 0

    def _extended(self, x: Tensor) -> Tensor | None:
        """``x`` with the extra columns that lie behind it in memory; None where there are none."""
        rows, cols = x.shape
        if x.stride(0) != cols + self._allocated_columns:
            return None
        return x.as_strided((rows, cols + self._extra_columns), x.stride())

    def _mask(self, dropout_state: RowState) -> DropoutMask | None:
        """The mask of the first adapter's input; None where nothing is dropped."""
        assert not isinstance(dropout_state, JointState)
        first = self.adapters[0]
        return DropoutMask(first.p, dropout_state, first.stream) if dropout_state is not None and first.p else None
