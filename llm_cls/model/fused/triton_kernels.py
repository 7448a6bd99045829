"""The functions of ``kernels.py`` as Triton kernels: one pass over device memory each, float32 inside.

Rows are tokens. A norm's kernel holds a whole row; the others take a row in pieces.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from llm_cls.model.fused.kernels import Form, Mask, Norm, Normed, Rows


@triton.jit
def _store_fp8(result, inside, out, scales, row, c, cols):
    """A row in float8, with the scale that makes its largest element the largest of the type."""
    scale = tl.maximum(tl.max(tl.where(inside, tl.abs(result), 0.0), 0), 1e-12) / 448.0
    tl.store(scales + row, scale)
    tl.store(out + row * cols + c, (result / scale).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _norm_kernel(
    x, a, b, offset, weight, bias, total, out, fp8, scales, stats, cols, out_row, eps,
    ADDENDS: tl.constexpr, OFFSET: tl.constexpr, RMS: tl.constexpr, PLAIN: tl.constexpr, FP8: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < cols
    value = tl.load(x + row * cols + c, mask=inside, other=0.0).to(tl.float32)
    if ADDENDS >= 1:
        value += tl.load(a + row * cols + c, mask=inside, other=0.0).to(tl.float32)
    if ADDENDS == 2:
        value += tl.load(b + row * cols + c, mask=inside, other=0.0).to(tl.float32)
    if OFFSET:
        value += tl.load(offset + c, mask=inside, other=0.0).to(tl.float32)
    if ADDENDS >= 1:
        rounded = value.to(total.dtype.element_ty)  # the norm is that of the sum as it is kept
        tl.store(total + row * cols + c, rounded, mask=inside)
        value = rounded.to(tl.float32)
    w = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
    if not RMS:
        mean = tl.sum(value, 0) / cols
        value = tl.where(inside, value - mean, 0.0)
        tl.store(stats + 2 * row, mean)
    scale = tl.rsqrt(tl.sum(value * value, 0) / cols + eps)
    tl.store(stats + 2 * row + 1, scale)
    result = value * scale * w
    if not RMS:
        result += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    if PLAIN:
        tl.store(out + row * out_row + c, result.to(out.dtype.element_ty), mask=inside)
    if FP8:
        _store_fp8(result, inside, fp8, scales, row, c, cols)


@triton.jit
def _norm_backward_kernel(
    grad, x, weight, residual, out, fp8, scales, stats, cols,
    RESIDUAL: tl.constexpr, RMS: tl.constexpr, FP8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = row * cols
    c = tl.arange(0, BLOCK)
    inside = c < cols
    value = tl.load(x + start + c, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
    weighted = tl.load(grad + start + c, mask=inside, other=0.0).to(tl.float32) * w
    if not RMS:
        value = tl.where(inside, value - tl.load(stats + 2 * row), 0.0)
    scale = tl.load(stats + 2 * row + 1)
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


@triton.jit
def _normal(x):
    """Cumulative distribution of the standard normal and ``exp(-x^2 / 2)``, with one exponential for both.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: absolute error of erf at most 1.5e-7.
    """
    density = tl.exp(-0.5 * x * x)
    t = 1.0 / (1.0 + 0.23164189 * tl.abs(x))
    poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    tail = 0.5 * poly * density
    return tl.where(x < 0.0, tail, 1.0 - tail), density


@triton.jit
def _function(x, KIND: tl.constexpr):
    if KIND == "gelu":
        cdf, _ = _normal(x)
        return x * cdf
    if KIND == "gelu_tanh":
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return x * tl.sigmoid(x)


@triton.jit
def _derivative(x, KIND: tl.constexpr):
    if KIND == "gelu":
        cdf, density = _normal(x)
        return cdf + x * density * 0.3989422804014327
    if KIND == "gelu_tanh":
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        return s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    s = tl.sigmoid(x)
    return s + x * s * (1.0 - s)


@triton.jit
def _activated(x, offset, row, cols, c, inside, KIND: tl.constexpr, GATED: tl.constexpr, OFFSET: tl.constexpr):
    start = x + row * cols * (2 if GATED else 1)
    value = tl.load(start + c, mask=inside, other=0.0).to(tl.float32)
    if OFFSET:
        value += tl.load(offset + c, mask=inside, other=0.0).to(tl.float32)
    result = _function(value, KIND)
    if GATED:
        other = tl.load(start + cols + c, mask=inside, other=0.0).to(tl.float32)
        if OFFSET:
            other += tl.load(offset + cols + c, mask=inside, other=0.0).to(tl.float32)
        result *= other
    return result


@triton.jit
def _activated_backward(
    grad, x, offset, row, cols, c, inside, KIND: tl.constexpr, GATED: tl.constexpr, OFFSET: tl.constexpr
):
    """Gradients with respect to the gate, or the only input, and to the value."""
    g = tl.load(grad + row * cols + c, mask=inside, other=0.0).to(tl.float32)
    start = x + row * cols * (2 if GATED else 1)
    value = tl.load(start + c, mask=inside, other=0.0).to(tl.float32)
    if OFFSET:
        value += tl.load(offset + c, mask=inside, other=0.0).to(tl.float32)
    first = g * _derivative(value, KIND)
    second = first
    if GATED:
        other = tl.load(start + cols + c, mask=inside, other=0.0).to(tl.float32)
        if OFFSET:
            other += tl.load(offset + cols + c, mask=inside, other=0.0).to(tl.float32)
        second = g * _function(value, KIND)
        first *= other
    return first, second


@triton.jit
def _activate_kernel(
    x, offset, out, cols, KIND: tl.constexpr, GATED: tl.constexpr, OFFSET: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < cols
    result = _activated(x, offset, row, cols, c, inside, KIND, GATED, OFFSET)
    tl.store(out + row * cols + c, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _activate_fp8_kernel(
    x, offset, out, fp8, scales, cols,
    KIND: tl.constexpr, GATED: tl.constexpr, OFFSET: tl.constexpr, PLAIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    top = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        inside = c < cols
        result = _activated(x, offset, row, cols, c, inside, KIND, GATED, OFFSET)
        top = tl.maximum(top, tl.where(inside, tl.abs(result), 0.0))
        if PLAIN:
            tl.store(out + row * cols + c, result.to(out.dtype.element_ty), mask=inside)
    scale = tl.maximum(tl.max(top, 0), 1e-12) / 448.0
    tl.store(scales + row, scale)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        inside = c < cols
        result = _activated(x, offset, row, cols, c, inside, KIND, GATED, OFFSET)
        tl.store(fp8 + row * cols + c, (result / scale).to(fp8.dtype.element_ty), mask=inside)


@triton.jit
def _activate_backward_kernel(
    grad, x, offset, out, cols, KIND: tl.constexpr, GATED: tl.constexpr, OFFSET: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < cols
    first, second = _activated_backward(grad, x, offset, row, cols, c, inside, KIND, GATED, OFFSET)
    start = out + row * cols * (2 if GATED else 1)
    tl.store(start + c, first.to(out.dtype.element_ty), mask=inside)
    if GATED:
        tl.store(start + cols + c, second.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _activate_backward_fp8_kernel(
    grad, x, offset, out, fp8, scales, cols,
    KIND: tl.constexpr, GATED: tl.constexpr, OFFSET: tl.constexpr, PLAIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    width = cols * (2 if GATED else 1)
    top = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        inside = c < cols
        first, second = _activated_backward(grad, x, offset, row, cols, c, inside, KIND, GATED, OFFSET)
        top = tl.maximum(top, tl.where(inside, tl.maximum(tl.abs(first), tl.abs(second)), 0.0))
        if PLAIN:
            tl.store(out + row * width + c, first.to(out.dtype.element_ty), mask=inside)
            if GATED:
                tl.store(out + row * width + cols + c, second.to(out.dtype.element_ty), mask=inside)
    scale = tl.maximum(tl.max(top, 0), 1e-12) / 448.0
    tl.store(scales + row, scale)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        inside = c < cols
        first, second = _activated_backward(grad, x, offset, row, cols, c, inside, KIND, GATED, OFFSET)
        tl.store(fp8 + row * width + c, (first / scale).to(fp8.dtype.element_ty), mask=inside)
        if GATED:
            tl.store(fp8 + row * width + cols + c, (second / scale).to(fp8.dtype.element_ty), mask=inside)


@triton.jit
def _quantize_kernel(x, fp8, scales, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < cols
    _store_fp8(tl.load(x + row * cols + c, mask=inside, other=0.0).to(tl.float32), inside, fp8, scales, row, c, cols)


@triton.jit
def _rotate_rows(x, out, x_head, out_head, heads, co, si, c, half, rest,
                 COPY: tl.constexpr, HEADS: tl.constexpr, REST: tl.constexpr):  # fmt: skip
    h = tl.arange(0, HEADS)[:, None]
    inside = (h < heads) & (c < half)
    source, target = x + h * x_head, out + h * out_head
    first = tl.load(source + c, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(target + c, (first * co - second * si).to(out.dtype.element_ty), mask=inside)
    tl.store(target + half + c, (second * co + first * si).to(out.dtype.element_ty), mask=inside)
    if COPY:
        r = tl.arange(0, REST)[None, :]
        passed = (h < heads) & (r < rest)
        tl.store(target + 2 * half + r, tl.load(source + 2 * half + r, mask=passed), mask=passed)


@triton.jit
def _rotate_kernel(
    q, k, v, q_out, k_out, v_out, positions, cos, sin, heads, kv_heads, half, rest, size,
    q_row, q_head, kv_row, kv_head, qo_row, qo_head, kvo_row, kvo_head, sign,
    COPY: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    HALF: tl.constexpr, REST: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if part == 2:  # v is only brought to its place
        h = tl.arange(0, KV_HEADS)[:, None]
        d = tl.arange(0, SIZE)[None, :]
        inside = (h < kv_heads) & (d < size)
        value = tl.load(v + row * kv_row + h * kv_head + d, mask=inside)
        tl.store(v_out + row * kvo_row + h * kvo_head + d, value, mask=inside)
    else:
        c = tl.arange(0, HALF)[None, :]
        angle = tl.load(positions + row) * half + c
        co = tl.load(cos + angle, mask=c < half, other=0.0)
        si = tl.load(sin + angle, mask=c < half, other=0.0) * sign
        if part == 0:
            _rotate_rows(q + row * q_row, q_out + row * qo_row, q_head, qo_head, heads, co, si, c, half, rest,
                         COPY, HEADS, REST)  # fmt: skip
        else:
            _rotate_rows(k + row * kv_row, k_out + row * kvo_row, kv_head, kvo_head, kv_heads, co, si, c, half, rest,
                         COPY, KV_HEADS, REST)  # fmt: skip


@triton.jit
def _dropout_kernel(
    x, out, rng, tokens, stream, p, scale, quarter, x_row,
    ADD: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < quarter
    seed = tl.load(rng) * 4096 + stream
    place = tl.load(tokens + row) if TOKENS else row
    token = (tl.load(rng + 1) + place).to(tl.int32)
    r0, r1, r2, r3 = tl.randint4x(seed, token * quarter + c, n_rounds=7)  # 7 rounds pass BigCrush (Salmon et al., 2011)
    start = row.to(tl.int64) * quarter * 4 + c
    for i in tl.static_range(4):
        bits = r0 if i == 0 else (r1 if i == 1 else (r2 if i == 2 else r3))
        kept = tl.uint_to_uniform_float(bits) >= p
        value = tl.load(x + row.to(tl.int64) * x_row + c + i * quarter, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(kept, value * scale, 0.0)
        if ADD:
            value += tl.load(out + start + i * quarter, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + start + i * quarter, value.to(out.dtype.element_ty), mask=inside)


def _row_warps(block: int) -> int:
    return min(max(block // 512, 1), 16)


def _empty_fp8(rows: int, cols: int, like: Tensor, wanted: bool) -> tuple[Tensor | None, Tensor | None]:
    if not wanted:
        return None, None
    return like.new_empty(rows, cols, dtype=torch.float8_e4m3fn), like.new_empty(rows, 1, dtype=torch.float32)


def norm(x: Tensor, addends: Sequence[Tensor], parameters: Norm, offset: Tensor | None, form: Form) -> Normed:
    """See ``kernels.norm``."""
    rows, cols = x.shape
    out = x.new_empty(rows, cols + form.spare)[:, :cols] if form.plain else None
    fp8, scales = _empty_fp8(rows, cols, x, form.fp8)
    total = torch.empty_like(x) if addends else x
    stats = x.new_empty(rows, 2, dtype=torch.float32)
    a, b = [*addends, None, None][:2]
    block = triton.next_power_of_2(cols)
    _norm_kernel[(rows,)](
        x, a, b, offset, parameters.weight, parameters.bias, total, out, fp8, scales, stats,
        cols, cols + form.spare, parameters.eps,
        ADDENDS=len(addends), OFFSET=offset is not None, RMS=parameters.rms, PLAIN=form.plain, FP8=form.fp8,
        BLOCK=block, num_warps=_row_warps(block),
    )  # fmt: skip
    return Normed(total, Rows(out, fp8, scales), stats)


def norm_backward(
    grad: Tensor, x: Tensor, stats: Tensor, parameters: Norm, residual: Tensor | None, form: Form
) -> Rows:
    """See ``kernels.norm_backward``."""
    rows, cols = x.shape
    out = torch.empty_like(x)
    fp8, scales = _empty_fp8(rows, cols, x, form.fp8)
    block = triton.next_power_of_2(cols)
    _norm_backward_kernel[(rows,)](
        grad.contiguous(), x, parameters.weight, residual, out, fp8, scales, stats, cols,
        RESIDUAL=residual is not None, RMS=parameters.rms, FP8=form.fp8, BLOCK=block, num_warps=_row_warps(block),
    )  # fmt: skip
    return Rows(out, fp8, scales)


def _piece(cols: int) -> int:
    """Columns per program: so many that few programs are half empty."""
    return 1024 if cols % 2048 else 2048


def activate(x: Tensor, activation: str, gated: bool, offset: Tensor | None, form: Form) -> Rows:
    """See ``kernels.activate``."""
    rows, cols = x.shape[0], x.shape[1] // (2 if gated else 1)
    out = x.new_empty(rows, cols) if form.plain else None
    piece = _piece(cols)
    kind = {"KIND": activation, "GATED": gated, "OFFSET": offset is not None, "BLOCK": piece}
    if not form.fp8:
        _activate_kernel[(rows, triton.cdiv(cols, piece))](x, offset, out, cols, **kind)
        return Rows(out)
    fp8, scales = _empty_fp8(rows, cols, x, True)
    _activate_fp8_kernel[(rows,)](x, offset, out, fp8, scales, cols, PLAIN=form.plain, **kind)
    return Rows(out, fp8, scales)


def activate_backward(grad: Tensor, x: Tensor, activation: str, gated: bool, offset: Tensor | None, form: Form) -> Rows:
    """See ``kernels.activate_backward``."""
    rows, cols = grad.shape
    out = None
    if form.plain:
        out = torch.empty_like(x) if gated or form.fp8 else grad
    piece = _piece(cols)
    kind = {"KIND": activation, "GATED": gated, "OFFSET": offset is not None, "BLOCK": piece}
    if not form.fp8:
        _activate_backward_kernel[(rows, triton.cdiv(cols, piece))](grad, x, offset, out, cols, **kind)
        return Rows(out)
    fp8, scales = _empty_fp8(rows, x.shape[1], x, True)
    _activate_backward_fp8_kernel[(rows,)](grad, x, offset, out, fp8, scales, cols, PLAIN=form.plain, **kind)
    return Rows(out, fp8, scales)


def quantize(x: Tensor) -> Rows:
    """``x`` and its float8 form."""
    rows, cols = x.shape
    fp8, scales = _empty_fp8(rows, cols, x, True)
    block = triton.next_power_of_2(cols)
    _quantize_kernel[(rows,)](x, fp8, scales, cols, BLOCK=block, num_warps=_row_warps(block))
    return Rows(x, fp8, scales)


def rotate(
    source: Sequence[Tensor], target: Sequence[Tensor], positions: Tensor, cos: Tensor, sin: Tensor, sign: int
) -> None:
    """See ``kernels.rotate``."""
    (q, k, v), (q_out, k_out, v_out) = source, target
    rows, heads, size = q.shape
    half = cos.shape[1]
    rest = size - 2 * half
    in_place = q is q_out
    _rotate_kernel[(rows, 2 if in_place else 3)](
        q, k, v, q_out, k_out, v_out, positions, cos, sin, heads, k.shape[1], half, rest, size,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1),
        q_out.stride(0), q_out.stride(1), k_out.stride(0), k_out.stride(1), sign,
        COPY=rest > 0 and not in_place, HEADS=triton.next_power_of_2(heads),
        KV_HEADS=triton.next_power_of_2(k.shape[1]), HALF=triton.next_power_of_2(half),
        REST=triton.next_power_of_2(max(rest, 1)), SIZE=triton.next_power_of_2(size),
    )  # fmt: skip


def dropout(x: Tensor, total: Tensor | None, mask: Mask) -> Tensor:
    """See ``kernels.dropout``; with ``total``, ``kernels.add_dropout``."""
    rows, cols = x.shape
    out = x.new_empty(rows, cols) if total is None else total
    quarter = cols // 4
    block = min(triton.next_power_of_2(quarter), 1024)
    _dropout_kernel[(rows, triton.cdiv(quarter, block))](
        x,
        out,
        mask.draw.rng,
        mask.draw.tokens,
        mask.stream,
        mask.p,
        1 / (1 - mask.p),
        quarter,
        x.stride(0),
        ADD=total is not None,
        TOKENS=mask.draw.tokens is not None,
        BLOCK=block,
    )
    return out
