"""Rotary position embedding as a Triton kernel; a program takes query, key or value of a token."""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from llm_cls.engine.triton.launch import kernel


@triton.jit
def _rotate_rows(x, out, x_head, out_head, heads, co, si, c, half: tl.constexpr, rest: tl.constexpr,
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


@kernel()
def _rotate_kernel(
    q, k, v, q_out, k_out, v_out, position_ids, cos, sin, heads, kv_heads,
    half: tl.constexpr, rest: tl.constexpr, size: tl.constexpr,  # multiples of 8 are read as vectors only if known
    q_row, q_head, kv_row, kv_head, qo_row, qo_head, kvo_row, kvo_head, sign,
    COPY: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    HALF: tl.constexpr, REST: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if part == 2:  # v is only copied
        h = tl.arange(0, KV_HEADS)[:, None]
        d = tl.arange(0, SIZE)[None, :]
        inside = (h < kv_heads) & (d < size)
        value = tl.load(v + row * kv_row + h * kv_head + d, mask=inside)
        tl.store(v_out + row * kvo_row + h * kvo_head + d, value, mask=inside)
    else:
        c = tl.arange(0, HALF)[None, :]
        angle = tl.load(position_ids + row) * half + c
        co = tl.load(cos + angle, mask=c < half, other=0.0)
        si = tl.load(sin + angle, mask=c < half, other=0.0) * sign
        if part == 0:
            _rotate_rows(q + row * q_row, q_out + row * qo_row, q_head, qo_head, heads, co, si, c, half, rest,
                         COPY, HEADS, REST)  # fmt: skip
        else:
            _rotate_rows(k + row * kv_row, k_out + row * kvo_row, kv_head, kvo_head, kv_heads, co, si, c, half, rest,
                         COPY, KV_HEADS, REST)  # fmt: skip


def rotate(
    source: Sequence[Tensor], target: Sequence[Tensor], position_ids: Tensor, cos: Tensor, sin: Tensor, sign: int
) -> None:
    """See ``kernels.rotate``."""
    (q, k, v), (q_out, k_out, v_out) = source, target
    rows, heads, size = q.shape
    half = cos.shape[1]
    rest = size - 2 * half
    in_place = q is q_out
    _rotate_kernel[(rows, 2 if in_place else 3)](
        q, k, v, q_out, k_out, v_out, position_ids, cos, sin, heads, k.shape[1], half, rest, size,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1),
        q_out.stride(0), q_out.stride(1), k_out.stride(0), k_out.stride(1), sign,
        COPY=rest > 0 and not in_place, HEADS=triton.next_power_of_2(heads),
        KV_HEADS=triton.next_power_of_2(k.shape[1]), HALF=triton.next_power_of_2(half),
        REST=triton.next_power_of_2(max(rest, 1)), SIZE=triton.next_power_of_2(size),
    )  # fmt: skip
