"""The non-linearity of the MLP together with the products of the adapter that follows it, as Triton kernels.

The activated tensor is the widest of a layer. Forward, the product with ``A`` reads it while it is written. Backward,
it is computed again from what the activation reads anyway, so that it is neither stored nor read, and the gradient
that comes through ``A`` is added without another pass.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from llm_cls.engine.tensors import OperandFormat
from llm_cls.engine.triton.activation import _derivative, _function
from llm_cls.engine.triton.lora import PROGRAMS, TILE, kept, options, scale, width


@triton.jit
def _inputs(x, bias, place, c, cols, inside, GATED: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Gate and value of a tile; without a gate the only input, twice."""
    gate = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        gate += tl.load(bias + c, mask=c < cols, other=0.0).to(tl.float32)[None, :]
    value = gate
    if GATED:
        value = tl.load(x + place + cols, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            value += tl.load(bias + cols + c, mask=c < cols, other=0.0).to(tl.float32)[None, :]
    return gate, value


@triton.jit(do_not_specialize=["rows", "factor"])
def _forward_kernel(
    x, bias, a, keep, out, down, rows, cols, x_row, out_row, mask_row, factor,
    KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, BESIDE: tl.constexpr, DROPOUT: tl.constexpr,
    RANK: tl.constexpr, R: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    r = tl.arange(0, R)
    acc = tl.zeros((M, R), tl.float32)
    for tile in range(0, tl.cdiv(cols, COLUMNS)):
        c = tile * COLUMNS + tl.arange(0, COLUMNS)
        inside = (row < rows)[:, None] & (c < cols)[None, :]
        gate, value = _inputs(x, bias, row[:, None] * x_row + c[None, :], c, cols, inside, GATED, HAS_BIAS)
        result = _function(gate, KIND)
        if GATED:
            result *= value
        rounded = result.to(out.dtype.element_ty)
        tl.store(out + row[:, None] * out_row + c[None, :], rounded, mask=inside)
        if DROPOUT:
            rounded = tl.where(kept(keep, row, tile, rows, mask_row, COLUMNS), rounded, 0.0)
        weight = tl.load(a + r[None, :] * cols + c[:, None], mask=(r < RANK)[None, :] & (c < cols)[:, None], other=0.0)
        acc = tl.dot(rounded, weight, acc, input_precision=PRECISION)
    inside = (row < rows)[:, None] & (r < RANK)[None, :]
    result = (acc * factor).to(down.dtype.element_ty)
    tl.store(down + row[:, None] * RANK + r[None, :], result, mask=inside)
    if BESIDE:  # also behind the activated row, for the product of both
        tl.store(out + row[:, None] * out_row + (cols + r)[None, :], result, mask=inside)


@triton.jit(do_not_specialize=["rows", "factor", "share"])
def _backward_kernel(
    grad, x, bias, down_grad, a, keep, out, weight_grad, rows, cols, grad_row, x_row, down_row, mask_row, factor, share,
    KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, DROPOUT: tl.constexpr,
    RANK: tl.constexpr, R: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    c = tile * COLUMNS + tl.arange(0, COLUMNS)
    r = tl.arange(0, R)
    weight = tl.load(a + r[:, None] * cols + c[None, :], mask=(r < RANK)[:, None] & (c < cols)[None, :], other=0.0)
    acc = tl.zeros((R, COLUMNS), tl.float32)
    for start in range(split * share, tl.minimum((split + 1) * share, rows), M):
        row = (start + tl.arange(0, M)).to(tl.int64)
        inside = (row < rows)[:, None] & (c < cols)[None, :]
        place = row[:, None] * x_row + c[None, :]
        gate, value = _inputs(x, bias, place, c, cols, inside, GATED, HAS_BIAS)
        upper = down_grad + row[:, None] * down_row + r[None, :]
        upper = tl.load(upper, mask=(row < rows)[:, None] & (r < RANK)[None, :], other=0.0)
        through = tl.dot(upper, weight, input_precision=PRECISION) * factor
        activated = _function(gate, KIND)
        first = activated
        if GATED:
            activated *= value
        rounded = activated.to(x.dtype.element_ty)
        if DROPOUT:
            keeps = kept(keep, row, tile, rows, mask_row, COLUMNS)
            through = tl.where(keeps, through, 0.0)
            rounded = tl.where(keeps, rounded, 0.0)
        acc = tl.dot(tl.trans(upper), rounded, acc, input_precision=PRECISION)
        g = tl.load(grad + row[:, None] * grad_row + c[None, :], mask=inside, other=0.0).to(tl.float32) + through
        slope = g * _derivative(gate, KIND)
        if GATED:
            tl.store(out + place + cols, (g * first).to(out.dtype.element_ty), mask=inside)
            slope *= value
        tl.store(out + place, slope.to(out.dtype.element_ty), mask=inside)
    first_row = split * RANK
    target = weight_grad + (first_row + r)[:, None] * cols + c[None, :]
    tl.store(target, acc * factor, mask=(r < RANK)[:, None] & (c < cols)[None, :])


def activate_down(
    x: Tensor, activation: str, gated: bool, bias: Tensor | None, a: Tensor, keep: Tensor | None, p: float,
    out_format: OperandFormat,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The activated tensor, with ``A dropout`` of it behind each row where there is room, and that product alone."""
    rows, cols = x.shape[0], x.shape[1] // (2 if gated else 1)
    extra = out_format.extra_columns
    out = x.new_empty(rows, cols + extra)[:, :cols]
    down = x.new_empty(rows, len(a))
    _forward_kernel[(triton.cdiv(rows, 16),)](
        x, bias, a, keep, out, down, rows, cols, x.stride(0), out.stride(0), width(keep), scale(p),
        KIND=activation, GATED=gated, HAS_BIAS=bias is not None, BESIDE=extra > 0, M=16, num_stages=3,
        **options(a, 1, keep),
    )  # fmt: skip
    return out, down


def activate_down_backward(
    grad: Tensor, down_grad: Tensor, x: Tensor, activation: str, gated: bool, bias: Tensor | None,
    a: Tensor, keep: Tensor | None, p: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients with respect to ``x`` and, float32, to ``a``, from those that come through ``W`` and through ``B``."""
    rows, cols = grad.shape
    tiles = triton.cdiv(cols, TILE)
    splits = max(1, min(2 * PROGRAMS // tiles, triton.cdiv(rows, 256)))
    share = triton.cdiv(triton.cdiv(rows, splits), 16) * 16
    out = torch.empty_like(x)
    weight_grad = x.new_empty(splits, len(a), cols, dtype=torch.float32)
    _backward_kernel[(tiles, splits)](
        grad, x, bias, down_grad, a, keep, out, weight_grad, rows, cols, grad.stride(0), x.stride(0),
        down_grad.stride(0), width(keep), scale(p), share,
        KIND=activation, GATED=gated, HAS_BIAS=bias is not None, M=16, num_stages=3, **options(a, 1, keep),
    )  # fmt: skip
    return out, weight_grad.sum(0)
