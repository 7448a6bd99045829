"""Norms and quantization to float8 as Triton kernels; a program holds a row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from llm_cls.engine.tensors import Norm, NormOutput, Operand, OperandFormat, Stream
from llm_cls.engine.triton.launch import kernel


@triton.jit
def _store_fp8(result, inside, out, scales, row, c, cols):
    """A row in float8, with the scale that makes its largest element the largest of the type."""
    scale = tl.maximum(tl.max(tl.where(inside, tl.abs(result), 0.0), 0), 1e-12) / 448.0
    tl.store(scales + row, scale)
    tl.store(out + row * cols + c, (result * (1.0 / scale)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _store_normed(normed, inside, weight, bias, out, fp8, scales, row, c, cols, out_row,
                  RMS: tl.constexpr, VALUES: tl.constexpr, FP8: tl.constexpr):  # fmt: skip
    result = normed * tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
    if not RMS:
        result += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    if VALUES:
        tl.store(out + row * out_row + c, result.to(out.dtype.element_ty), mask=inside)
    if FP8:
        _store_fp8(result, inside, fp8, scales, row, c, cols)


@kernel()
def _norm_kernel(
    x, a, b, pending_bias, post_weight, weight, bias, total, out, fp8, scales,
    weight2, bias2, out2, fp8_2, scales2, cols, out_row, out2_row, post_eps, eps,
    ADDENDS: tl.constexpr, HAS_PENDING_BIAS: tl.constexpr, HAS_POST_NORM: tl.constexpr, RMS: tl.constexpr,
    VALUES: tl.constexpr, FP8: tl.constexpr, SECOND: tl.constexpr, VALUES2: tl.constexpr, FP8_2: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < cols
    value = tl.load(x + row * cols + c, mask=inside, other=0.0).to(tl.float32)
    if ADDENDS >= 1:
        addend = tl.load(a + row * cols + c, mask=inside, other=0.0).to(tl.float32)
        if HAS_POST_NORM:
            addend *= tl.rsqrt(tl.sum(addend * addend, 0) / cols + post_eps)
            addend *= tl.load(post_weight + c, mask=inside, other=0.0).to(tl.float32)
        value += addend
    if ADDENDS == 2:
        value += tl.load(b + row * cols + c, mask=inside, other=0.0).to(tl.float32)
    if HAS_PENDING_BIAS:
        value += tl.load(pending_bias + c, mask=inside, other=0.0).to(tl.float32)
    if ADDENDS >= 1 or HAS_PENDING_BIAS:
        rounded = value.to(total.dtype.element_ty)  # the norm is that of the sum as it is stored
        tl.store(total + row * cols + c, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if not RMS:
        value = tl.where(inside, value - tl.sum(value, 0) / cols, 0.0)
    normed = value * tl.rsqrt(tl.sum(value * value, 0) / cols + eps)
    _store_normed(normed, inside, weight, bias, out, fp8, scales, row, c, cols, out_row, RMS, VALUES, FP8)
    if SECOND:
        _store_normed(normed, inside, weight2, bias2, out2, fp8_2, scales2, row, c, cols, out2_row,
                      RMS, VALUES2, FP8_2)  # fmt: skip


@kernel()
def _norm_backward_kernel(
    grad, x, weight, grad2, weight2, residual, out, fp8, scales, cols, grad_row, grad2_row, eps,
    SECOND: tl.constexpr, RESIDUAL: tl.constexpr, RMS: tl.constexpr, FP8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = row * cols
    c = tl.arange(0, BLOCK)
    inside = c < cols
    value = tl.load(x + start + c, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
    weighted = tl.load(grad + row * grad_row + c, mask=inside, other=0.0).to(tl.float32) * w
    if SECOND:  # the backward pass of a norm is linear in this product, and all else is the same
        w = tl.load(weight2 + c, mask=inside, other=0.0).to(tl.float32)
        weighted += tl.load(grad2 + row * grad2_row + c, mask=inside, other=0.0).to(tl.float32) * w
    if not RMS:
        value = tl.where(inside, value - tl.sum(value, 0) / cols, 0.0)
    scale = tl.rsqrt(tl.sum(value * value, 0) / cols + eps)
    normed = value * scale
    result = weighted - normed * (tl.sum(weighted * normed, 0) / cols)
    if not RMS:
        result -= tl.sum(weighted, 0) / cols
    result *= scale
    if RESIDUAL:
        result += tl.load(residual + start + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + c, result.to(out.dtype.element_ty), mask=inside)
    if FP8:
        _store_fp8(result, inside, fp8, scales, row, c, cols)


@kernel()
def _quantize_kernel(x, fp8, scales, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < cols
    _store_fp8(tl.load(x + row * cols + c, mask=inside, other=0.0).to(tl.float32), inside, fp8, scales, row, c, cols)


def _row_warps(block: int) -> int:
    return min(max(block // 512, 1), 16)


def empty_fp8(rows: int, cols: int, like: Tensor, wanted: bool) -> tuple[Tensor | None, Tensor | None]:
    """Memory for a tensor in float8 and its scales on the device of ``like``; None, None unless ``wanted``."""
    if not wanted:
        return None, None
    return like.new_empty(rows, cols, dtype=torch.float8_e4m3fn), like.new_empty(rows, 1, dtype=torch.float32)


def norm(
    stream: Stream, parameters: Norm, out_format: OperandFormat, second: tuple[Norm, OperandFormat] | None = None
) -> NormOutput:
    """See ``kernels.norm``."""
    x, addends, pending_bias, post_norm = stream
    rows, cols = x.shape
    parameters2, format2 = second or (parameters, OperandFormat(values=False))
    out, out2 = _empty_operand(rows, cols, x, out_format), _empty_operand(rows, cols, x, format2)
    total = x if not addends and pending_bias is None else torch.empty_like(x)
    a, b = [*addends, None, None][:2]
    block = triton.next_power_of_2(cols)
    _norm_kernel[(rows,)](
        x, a, b, pending_bias, post_norm and post_norm.weight, parameters.weight, parameters.bias, total, *out,
        parameters2.weight, parameters2.bias, *out2, cols, cols + out_format.extra_columns,
        cols + format2.extra_columns, post_norm.eps if post_norm else 0.0, parameters.eps,
        ADDENDS=len(addends), HAS_PENDING_BIAS=pending_bias is not None, HAS_POST_NORM=post_norm is not None,
        RMS=parameters.rms, VALUES=out_format.values, FP8=out_format.fp8, SECOND=second is not None,
        VALUES2=format2.values, FP8_2=format2.fp8, BLOCK=block, num_warps=_row_warps(block),
    )  # fmt: skip
    return NormOutput(total, out, None if second is None else out2)


def _empty_operand(rows: int, cols: int, like: Tensor, out_format: OperandFormat) -> Operand:
    values = like.new_empty(rows, cols + out_format.extra_columns)[:, :cols] if out_format.values else None
    return Operand(values, *empty_fp8(rows, cols, like, out_format.fp8))


def norm_backward(
    grad: Tensor, x: Tensor, parameters: Norm, residual: Tensor | None, out_format: OperandFormat,
    second: tuple[Tensor, Norm] | None = None,
) -> Operand:  # fmt: skip
    """See ``kernels.norm_backward``."""
    rows, cols = x.shape
    out = torch.empty_like(x)
    fp8, scales = empty_fp8(rows, cols, x, out_format.fp8)
    grad2, parameters2 = second or (grad, parameters)
    block = triton.next_power_of_2(cols)
    _norm_backward_kernel[(rows,)](
        grad, x, parameters.weight, grad2, parameters2.weight, residual, out, fp8, scales, cols, grad.stride(0),
        grad2.stride(0), parameters.eps, SECOND=second is not None, RESIDUAL=residual is not None, RMS=parameters.rms,
        FP8=out_format.fp8, BLOCK=block, num_warps=_row_warps(block),
    )  # fmt: skip
    return Operand(out, fp8, scales)


def quantize(x: Tensor) -> Operand:
    """``x`` and the same in float8."""
    rows, cols = x.shape
    fp8, scales = empty_fp8(rows, cols, x, True)
    block = triton.next_power_of_2(cols)
    _quantize_kernel[(rows,)](x, fp8, scales, cols, BLOCK=block, num_warps=_row_warps(block))
    return Operand(x, fp8, scales)
