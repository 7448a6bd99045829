"""Causal attention over packed short texts as Triton kernels, forward and backward.

FlashAttention-2 (Dao, 2023) with blocks for texts of at most some hundred tokens. The general kernel works in blocks
of 128 and, backward, keeps a float32 copy of the query's gradient in device memory. Here blocks are smaller, so that
less is computed above the causal diagonal, and each gradient is written once, to where the next product reads it; those
of query and key are first taken back through rotation and norms. The grid has one dimension, because the other
dimensions end at 65,535, and many short texts have more heads than that. A text begins at a 64-bit offset; within it
offsets have 32 bits, which saves a fifth of the forward kernel's registers.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from llm_cls.engine.spec import HeadInputs, Scores
from llm_cls.engine.triton.head_norms import gradient_inputs, store_gradient
from llm_cls.engine.triton.launch import kernel


@triton.jit
def _capped(score, CAP: tl.constexpr):
    """The score, or with a soft cap ``CAP * tanh(score / CAP)``."""
    return CAP * (2.0 * tl.sigmoid(score * (2.0 / CAP)) - 1.0) if CAP > 0.0 else score


@triton.jit
def _visible(r, c, WINDOW: tl.constexpr):
    """Whether the token ``r`` of a text attends to its token ``c``."""
    return (r >= c) & (r < c + WINDOW) if WINDOW > 0 else r >= c


@triton.jit
def _first_key(first, N: tl.constexpr, WINDOW: tl.constexpr):
    """Where the first block of keys begins that a block of queries from ``first`` on attends to."""
    return tl.maximum(first - WINDOW + 1, 0) // N * N if WINDOW > 0 else 0


@triton.jit
def _part(cu_seqlens, blocks, heads, TOGETHER: tl.constexpr):
    """What a program computes: its block, its head, and the start and the length of its text.

    The longest blocks of ``TOGETHER`` pairs of a text and a head come first: short ones at the end fill the processors
    more evenly.
    """
    first = tl.program_id(0) // (blocks * TOGETHER) * TOGETHER
    n = tl.minimum(tl.num_programs(0) // blocks - first, TOGETHER)
    i = tl.program_id(0) - first * blocks
    block, pair = i // n, first + i % n
    text, head = pair // heads, pair % heads
    start = tl.load(cu_seqlens + text).to(tl.int64)
    return block, head, start, (tl.load(cu_seqlens + text + 1) - start).to(tl.int32)


@kernel(do_not_specialize=["total", "blocks"])
def _forward_kernel(
    q, k, v, out, lse, cu_seqlens, blocks, q_row, q_head, kv_row, kv_head, out_row, heads, group, total, scale,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    block, head, start, length = _part(cu_seqlens, blocks, heads, TOGETHER)
    first = (blocks - 1 - block) * M  # the long rows first
    if first >= length:
        return
    r = first + tl.arange(0, M)
    n, d = tl.arange(0, N), tl.arange(0, D)
    rows = r < length
    q_start = q + start * q_row + head * q_head
    query = tl.load(q_start + r[:, None] * q_row + d[None, :], mask=rows[:, None], other=0.0)
    k_start = k + start * kv_row + (head // group) * kv_head
    v_start = v + start * kv_row + (head // group) * kv_head
    top = tl.full((M,), -float("inf"), tl.float32)
    norm = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, D), tl.float32)
    for c in range(_first_key(first, N, WINDOW), first, N):  # below the diagonal
        key = tl.load(k_start + (c + n)[None, :] * kv_row + d[:, None])
        score = _capped(tl.dot(query, key) * scale, CAP)
        if WINDOW > 0:
            score = tl.where(r[:, None] < (c + n)[None, :] + WINDOW, score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        p = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(top - higher)
        norm = norm * shrink + tl.sum(p, 1)
        value = tl.load(v_start + (c + n)[:, None] * kv_row + d[None, :])
        acc = tl.dot(p.to(value.dtype), value, acc * shrink[:, None])
        top = higher
    for c in range(first, tl.minimum(first + M, length), N):  # on it
        inside = (c + n) < length
        key = tl.load(k_start + (c + n)[None, :] * kv_row + d[:, None], mask=inside[None, :], other=0.0)
        score = _capped(tl.dot(query, key) * scale, CAP)
        score = tl.where(_visible(r[:, None], (c + n)[None, :], WINDOW), score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        p = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(top - higher)
        norm = norm * shrink + tl.sum(p, 1)
        value = tl.load(v_start + (c + n)[:, None] * kv_row + d[None, :], mask=inside[:, None], other=0.0)
        acc = tl.dot(p.to(value.dtype), value, acc * shrink[:, None])
        top = higher
    acc = acc / norm[:, None]
    target = out + start * out_row + head * D
    tl.store(target + r[:, None] * out_row + d[None, :], acc.to(out.dtype.element_ty), mask=rows[:, None])
    tl.store(lse + head * total + start + r, top + tl.log2(norm), mask=rows)


@kernel(do_not_specialize=["total", "blocks"])
def _query_kernel(
    q, k, v, out, grad, lse, delta, dq, cu_seqlens, blocks, q_row, q_head, kv_row, kv_head, d_row, d_head,
    out_row, grad_row, heads, group, total, scale, plain_scale, rotary, norm,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    block, head, start, length = _part(cu_seqlens, blocks, heads, TOGETHER)
    first = (blocks - 1 - block) * M
    if first >= length:
        return
    r = first + tl.arange(0, M)
    n, d = tl.arange(0, N), tl.arange(0, D)
    rows = r < length
    row_start = head * total + start
    grad_start = grad + start * grad_row + head * D
    upper = tl.load(grad_start + r[:, None] * grad_row + d[None, :], mask=rows[:, None], other=0.0)
    out_start = out + start * out_row + head * D
    output = tl.load(out_start + r[:, None] * out_row + d[None, :], mask=rows[:, None], other=0.0)
    mean = tl.sum(output.to(tl.float32) * upper.to(tl.float32), 1)
    tl.store(delta + row_start + r, mean, mask=rows)
    q_start = q + start * q_row + head * q_head
    query = tl.load(q_start + r[:, None] * q_row + d[None, :], mask=rows[:, None], other=0.0)
    high = tl.load(lse + row_start + r, mask=rows, other=0.0)
    kv_start = start * kv_row + (head // group) * kv_head
    acc = tl.zeros((M, D), tl.float32)
    for c in range(_first_key(first, N, WINDOW), tl.minimum(first + M, length), N):
        inside = (c + n) < length
        place = (c + n)[:, None] * kv_row + d[None, :]
        key = tl.load(k + kv_start + place, mask=inside[:, None], other=0.0)
        value = tl.load(v + kv_start + place, mask=inside[:, None], other=0.0)
        score = _capped(tl.dot(query, tl.trans(key)) * scale, CAP)
        p = tl.exp2(score - high[:, None])
        p = tl.where(_visible(r[:, None], (c + n)[None, :], WINDOW), p, 0.0)
        ds = p * (tl.dot(upper, tl.trans(value)) - mean[:, None])
        if CAP > 0.0:
            ds *= 1.0 - score * score * (1.0 / (CAP * CAP))
        acc = tl.dot(ds.to(key.dtype), key, acc)
    store_gradient(dq + start * d_row + head * d_head, d_row, acc * plain_scale, r, rows, start, head, rotary, norm)


@kernel(do_not_specialize=["total", "blocks"])
def _key_value_kernel(
    q, k, v, grad, lse, delta, dk, dv, cu_seqlens, blocks, q_row, q_head, kv_row, kv_head, d_row, d_head,
    grad_row, heads, group, total, scale, plain_scale, rotary, norm,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    block, kv, start, length = _part(cu_seqlens, blocks, heads // group, TOGETHER)
    first = block * N
    if first >= length:
        return
    c, d = first + tl.arange(0, N), tl.arange(0, D)
    columns = c < length
    kv_start = start * kv_row + kv * kv_head
    place = c[:, None] * kv_row + d[None, :]
    key = tl.load(k + kv_start + place, mask=columns[:, None], other=0.0)
    value = tl.load(v + kv_start + place, mask=columns[:, None], other=0.0)
    key_grad = tl.zeros((N, D), tl.float32)
    value_grad = tl.zeros((N, D), tl.float32)
    end = tl.minimum(length, first + N + WINDOW - 1) if WINDOW > 0 else length
    for i in range(0, group):
        head = kv * group + i
        q_start = q + start * q_row + head * q_head
        grad_start = grad + start * grad_row + head * D
        row_start = head * total + start
        for r0 in range((first // M) * M, end, M):
            r = r0 + tl.arange(0, M)
            rows = r < length  # a query behind the text and its gradient are zeros and add nothing
            query = tl.load(q_start + r[:, None] * q_row + d[None, :], mask=rows[:, None], other=0.0)
            high = tl.load(lse + row_start + r, mask=rows, other=0.0)
            score = _capped(tl.dot(key, tl.trans(query)) * scale, CAP)
            p = tl.exp2(score - high[None, :])
            p = tl.where(_visible(r[None, :], c[:, None], WINDOW), p, 0.0)
            upper = tl.load(grad_start + r[:, None] * grad_row + d[None, :], mask=rows[:, None], other=0.0)
            value_grad = tl.dot(p.to(upper.dtype), upper, value_grad)
            mean = tl.load(delta + row_start + r, mask=rows, other=0.0)
            ds = p * (tl.dot(value, tl.trans(upper)) - mean[None, :])
            if CAP > 0.0:
                ds *= 1.0 - score * score * (1.0 / (CAP * CAP))
            key_grad = tl.dot(ds.to(query.dtype), query, key_grad)
    kv_start = start * d_row + kv * d_head
    place = c[:, None] * d_row + d[None, :]
    tl.store(dv + kv_start + place, value_grad.to(dv.dtype.element_ty), mask=columns[:, None])
    store_gradient(dk + kv_start, d_row, key_grad * plain_scale, c, columns, start, kv, rotary, norm)


_LOG2_E = 1.4426950408889634

# M, N, warps, stages and pairs that take turns, by the largest head size that they are for. Chosen by measurement on an
# H100 with 14 heads of 64 in 2 groups, 16 of 128 in 8 and 22 in 22, 4 of 256 in 1, and texts of 330 to 512 tokens. The
# forward kernel needs an M that is a multiple of N, because it masks no key below the diagonal.
_BLOCKS = {
    "forward": {128: (64, 64, 4, 3, 1), 256: (64, 32, 4, 2, 64)},
    "query": {64: (64, 64, 4, 2, 32), 128: (64, 32, 4, 2, 32), 256: (64, 32, 4, 1, 32)},
    "key_value": {128: (32, 64, 4, 3, 64), 256: (32, 32, 4, 2, 64)},
}


def _options(kernel: str, size: int, scores: Scores) -> dict[str, Any]:
    m, n, warps, stages, together = next(x for largest, x in _BLOCKS[kernel].items() if size <= largest)
    blocks = {"M": m, "N": n, "num_warps": warps, "num_stages": stages, "TOGETHER": together, "D": size}
    return blocks | {"WINDOW": scores.window or 0, "CAP": (scores.softcap or 0.0) * _LOG2_E}


def attend(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scores: Scores, extra_columns: int = 0
) -> tuple[Tensor, Tensor]:
    """Output and, for ``attend_backward``, the logarithm (base 2) of each score sum, shape ``(heads, tokens)``."""
    total, heads, size = q.shape
    out = q.new_empty(total, heads * size + extra_columns)[:, : heads * size].view(total, heads, size)
    lse = q.new_empty(heads, total, dtype=torch.float32)
    options = _options("forward", size, scores)
    blocks = triton.cdiv(max_seqlen, options["M"])
    _forward_kernel[(blocks * (len(cu_seqlens) - 1) * heads,)](
        q, k, v, out, lse, cu_seqlens, blocks, q.stride(0), q.stride(1), k.stride(0), k.stride(1),
        out.stride(0), heads, heads // k.shape[1], total, scores.scaling * _LOG2_E, **options,
    )  # fmt: skip
    return out, lse


def attend_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad: Tensor, target: Sequence[Tensor],
    cu_seqlens: Tensor, max_seqlen: int, scores: Scores, before: HeadInputs | None = None,
) -> None:  # fmt: skip
    """Writes the gradients of ``q``, ``k`` and ``v``, or with ``before`` the projection's output, into ``target``."""
    total, heads, size = q.shape
    dq, dk, dv = target
    n, group = len(cu_seqlens) - 1, heads // k.shape[1]
    delta = torch.empty_like(lse)  # a query's output times its gradient; the first kernel writes it for the second
    strides = q.stride(0), q.stride(1), k.stride(0), k.stride(1)
    scales = grad.stride(0), heads, group, total, scores.scaling * _LOG2_E, scores.scaling
    options = _options("query", size, scores)
    blocks = triton.cdiv(max_seqlen, options["M"])
    _query_kernel[(blocks * n * heads,)](
        q, k, v, out, grad, lse, delta, dq, cu_seqlens, blocks, *strides, dq.stride(0), dq.stride(1), out.stride(0),
        *scales, *gradient_inputs(before, 0), **options,
    )  # fmt: skip
    options = _options("key_value", size, scores)
    blocks = triton.cdiv(max_seqlen, options["N"])
    _key_value_kernel[(blocks * n * k.shape[1],)](
        q, k, v, grad, lse, delta, dk, dv, cu_seqlens, blocks, *strides, dk.stride(0), dk.stride(1), *scales,
        *gradient_inputs(before, 1), **options,
    )  # fmt: skip
