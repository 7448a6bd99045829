"""The non-linearity of the MLP as Triton kernels.

A program takes a piece of a row. With float8 output it takes all of it, because the scale is that of the row, and keeps
the result in registers until the scale is known.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from llm_cls.engine.tensors import AdapterPart, Operand, OperandFormat
from llm_cls.engine.triton.functions import derivative, function
from llm_cls.engine.triton.launch import kernel
from llm_cls.engine.triton.lora import TILE, adapter_part, mask_width, options
from llm_cls.engine.triton.norm import empty_fp8


@triton.jit
def _activated(x, bias, row, cols, c, inside, KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr):
    start = x + row * cols * (2 if GATED else 1)
    value = tl.load(start + c, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    result = function(value, KIND)
    if GATED:
        other = tl.load(start + cols + c, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            other += tl.load(bias + cols + c, mask=inside, other=0.0).to(tl.float32)
        result *= other
    return result


@triton.jit
def _activated_backward(
    grad, added, x, bias, row, cols, grad_row, c, inside,
    KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Gradients with respect to the gate, or the only input, and to the value."""
    g = tl.load(grad + row * grad_row + c, mask=inside, other=0.0).to(tl.float32) + added
    if HAS_BIAS:
        bias += row * 0  # its pointers have the shape of the others
    start = x + row * cols * (2 if GATED else 1)
    value = tl.load(start + c, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    first = g * derivative(value, KIND)
    second = first
    if GATED:
        other = tl.load(start + cols + c, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            other += tl.load(bias + cols + c, mask=inside, other=0.0).to(tl.float32)
        second = g * function(value, KIND)
        first *= other
    return first, second


@kernel()
def _activate_kernel(
    x, bias, out, cols, out_row, KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < cols
    result = _activated(x, bias, row, cols, c, inside, KIND, GATED, HAS_BIAS)
    tl.store(out + row * out_row + c, result.to(out.dtype.element_ty), mask=inside)


@kernel()
def _activate_fp8_kernel(
    x, bias, out, fp8, scales, cols, KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    VALUES: tl.constexpr, PIECES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    top = tl.zeros((BLOCK,), tl.float32)
    pieces = ()
    for i in tl.static_range(PIECES):
        c = i * BLOCK + tl.arange(0, BLOCK)
        inside = c < cols
        result = _activated(x, bias, row, cols, c, inside, KIND, GATED, HAS_BIAS)
        top = tl.maximum(top, tl.where(inside, tl.abs(result), 0.0))
        if VALUES:
            tl.store(out + row * cols + c, result.to(out.dtype.element_ty), mask=inside)
        pieces += (result,)  # type: ignore[assignment]  # Triton would run an annotation
    scale = tl.maximum(tl.max(top, 0), 1e-12) / 448.0
    tl.store(scales + row, scale)
    for i in tl.static_range(PIECES):
        c = i * BLOCK + tl.arange(0, BLOCK)
        tl.store(fp8 + row * cols + c, (pieces[i] * (1.0 / scale)).to(fp8.dtype.element_ty), mask=c < cols)


@kernel()
def _activate_backward_kernel(
    grad, x, bias, out, cols, grad_row, out_row,
    KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < cols
    first, second = _activated_backward(grad, 0.0, x, bias, row, cols, grad_row, c, inside, KIND, GATED, HAS_BIAS)
    start = out + row * out_row
    tl.store(start + c, first.to(out.dtype.element_ty), mask=inside)
    if GATED:
        tl.store(start + cols + c, second.to(out.dtype.element_ty), mask=inside)


@kernel(do_not_specialize=["rows", "factor"])
def _activate_backward_part_kernel(
    grad, down_grad, a, keep, x, bias, out, rows, cols, grad_row, out_row, down_row, mask_row, factor,
    KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, ADAPTERS: tl.constexpr, DROPOUT: tl.constexpr,
    RANK: tl.constexpr, R: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64) * M + tl.arange(0, M)
    c = (tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    added = adapter_part(down_grad, a, keep, row, tile, rows, cols, down_row, mask_row, factor,
                         ADAPTERS, DROPOUT, RANK, R, COLUMNS, PRECISION)  # fmt: skip
    inside = (row < rows)[:, None] & (c < cols)
    place = row[:, None]
    first, second = _activated_backward(grad, added, x, bias, place, cols, grad_row, c, inside, KIND, GATED, HAS_BIAS)
    start = out + place * out_row + c
    tl.store(start, first.to(out.dtype.element_ty), mask=inside)
    if GATED:
        tl.store(start + cols, second.to(out.dtype.element_ty), mask=inside)


@kernel()
def _activate_backward_fp8_kernel(
    grad, x, bias, out, fp8, scales, cols, grad_row, KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    VALUES: tl.constexpr, PIECES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    width = cols * (2 if GATED else 1)
    top = tl.zeros((BLOCK,), tl.float32)
    pieces = ()
    for i in tl.static_range(PIECES):
        c = i * BLOCK + tl.arange(0, BLOCK)
        inside = c < cols
        first, second = _activated_backward(grad, 0.0, x, bias, row, cols, grad_row, c, inside, KIND, GATED, HAS_BIAS)
        top = tl.maximum(top, tl.where(inside, tl.maximum(tl.abs(first), tl.abs(second)), 0.0))
        if VALUES:
            tl.store(out + row * width + c, first.to(out.dtype.element_ty), mask=inside)
            if GATED:
                tl.store(out + row * width + cols + c, second.to(out.dtype.element_ty), mask=inside)
        pieces += ((first, second),)  # type: ignore[assignment]  # Triton would run an annotation
    scale = tl.maximum(tl.max(top, 0), 1e-12) / 448.0
    tl.store(scales + row, scale)
    for i in tl.static_range(PIECES):
        c = i * BLOCK + tl.arange(0, BLOCK)
        start = fp8 + row * width + c
        tl.store(start, (pieces[i][0] * (1.0 / scale)).to(fp8.dtype.element_ty), mask=c < cols)
        if GATED:
            tl.store(start + cols, (pieces[i][1] * (1.0 / scale)).to(fp8.dtype.element_ty), mask=c < cols)


def _piece(cols: int) -> int:
    """Columns per program, chosen so that few programs are half empty."""
    return 1024 if cols % 2048 else 2048


def _fp8_options(cols: int, gated: bool) -> dict[str, int]:
    """Of a program that takes a whole row: columns per piece, pieces and warps, by measurement on an H100."""
    piece = min(triton.next_power_of_2(cols), 4096)
    warps = piece // (256 if gated else 512)
    return {"BLOCK": piece, "PIECES": triton.cdiv(cols, piece), "num_warps": max(warps, 1)}


def activate(x: Tensor, activation: str, gated: bool, bias: Tensor | None, out_format: OperandFormat) -> Operand:
    """See ``kernels.activate``."""
    rows, cols = x.shape[0], x.shape[1] // (2 if gated else 1)
    out = x.new_empty(rows, cols + out_format.extra_columns)[:, :cols] if out_format.values else None
    kind = {"KIND": activation, "GATED": gated, "HAS_BIAS": bias is not None}
    if not out_format.fp8:
        piece = _piece(cols)
        _activate_kernel[(rows, triton.cdiv(cols, piece))](
            x, bias, out, cols, cols + out_format.extra_columns, BLOCK=piece, **kind
        )
        return Operand(out)
    fp8, scales = empty_fp8(rows, cols, x, True)
    _activate_fp8_kernel[(rows,)](
        x, bias, out, fp8, scales, cols, VALUES=out_format.values, **kind, **_fp8_options(cols, gated)
    )
    return Operand(out, fp8, scales)


def activate_backward(
    grad: Tensor,
    x: Tensor,
    activation: str,
    gated: bool,
    bias: Tensor | None,
    out_format: OperandFormat,
    part: AdapterPart | None = None,
) -> Operand:
    """See ``kernels.activate_backward``."""
    rows, cols = grad.shape
    out = None
    if out_format.values:
        out = torch.empty_like(x) if gated or out_format.fp8 else grad
    kind = {"KIND": activation, "GATED": gated, "HAS_BIAS": bias is not None}
    if part is not None:
        assert out is not None and not out_format.fp8
        _activate_backward_part_kernel[(triton.cdiv(cols, TILE), triton.cdiv(rows, 16))](
            grad, part.grad, part.a, part.keep, x, bias, out, rows, cols, grad.stride(0), out.stride(0),
            part.grad.stride(0), mask_width(part.keep), part.factor,
            ADAPTERS=part.n, M=16, **kind, **options(part.a, part.n, part.keep, 3),
        )  # fmt: skip
        return Operand(out)
    if not out_format.fp8:
        assert out is not None
        piece, strides = _piece(cols), (grad.stride(0), out.stride(0))
        _activate_backward_kernel[(rows, triton.cdiv(cols, piece))](
            grad, x, bias, out, cols, *strides, BLOCK=piece, **kind
        )
        return Operand(out)
    fp8, scales = empty_fp8(rows, x.shape[1], x, True)
    _activate_backward_fp8_kernel[(rows,)](
        grad, x, bias, out, fp8, scales, cols, grad.stride(0), VALUES=out_format.values, **kind,
        **_fp8_options(cols, gated),
    )  # fmt: skip
    return Operand(out, fp8, scales)
