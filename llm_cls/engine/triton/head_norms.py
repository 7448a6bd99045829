"""RMS norm of each head and rotary position embedding in one pass; a program takes query, key or value of a token.

The backward pass can also be the end of attention's, which saves the pass: ``store_gradient``.
"""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from llm_cls.engine.spec import HeadInputs
from llm_cls.engine.tensors import Norm
from llm_cls.engine.triton.launch import kernel


@triton.jit
def _inverse_root(first, second, other, size, eps):
    """Of the mean square of each head; shape ``(heads, 1)``."""
    squares = tl.sum(first * first, 1) + tl.sum(second * second, 1) + tl.sum(other * other, 1)
    return tl.rsqrt(squares / size + eps)[:, None]


@triton.jit
def _rotate_backward(first, second, co, si):
    return first * co + second * si, second * co - first * si


@triton.jit
def _norm_backward(first, second, other, u1, u2, u3, scale, size):
    """From the normed heads before their weights, and the gradients times these weights."""
    mean = (tl.sum(u1 * first, 1) + tl.sum(u2 * second, 1) + tl.sum(u3 * other, 1))[:, None] / size
    return scale * (u1 - first * mean), scale * (u2 - second * mean), scale * (u3 - other * mean)


@triton.jit
def _heads(
    x, grad, out, weight, x_head, grad_head, out_head, heads, co, si, eps,
    half: tl.constexpr, rest: tl.constexpr, size: tl.constexpr,
    BACKWARD: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """The halves that are rotated, and ``other``, what lies behind them."""
    h = tl.arange(0, HEADS)[:, None]
    c = tl.arange(0, HALF)[None, :]
    r = tl.arange(0, REST)[None, :]
    inside, beyond = (h < heads) & (c < half), (h < heads) & (r < rest)
    x += h * x_head
    first = tl.load(x + c, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + half + c, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(x + 2 * half + r, mask=beyond, other=0.0).to(tl.float32)
    scale = _inverse_root(first, second, other, size, eps)
    first, second, other = first * scale, second * scale, other * scale
    w1 = tl.load(weight + c, mask=c < half, other=0.0).to(tl.float32)
    w2 = tl.load(weight + half + c, mask=c < half, other=0.0).to(tl.float32)
    w3 = tl.load(weight + 2 * half + r, mask=r < rest, other=0.0).to(tl.float32)
    if BACKWARD:
        grad += h * grad_head
        g1 = tl.load(grad + c, mask=inside, other=0.0).to(tl.float32)
        g2 = tl.load(grad + half + c, mask=inside, other=0.0).to(tl.float32)
        g3 = tl.load(grad + 2 * half + r, mask=beyond, other=0.0).to(tl.float32) * w3
        g1, g2 = _rotate_backward(g1, g2, co, si)
        y1, y2, y3 = _norm_backward(first, second, other, g1 * w1, g2 * w2, g3, scale, size)
    else:
        first, second, y3 = first * w1, second * w2, other * w3
        y1, y2 = first * co - second * si, second * co + first * si
    out += h * out_head
    tl.store(out + c, y1.to(out.dtype.element_ty), mask=inside)
    tl.store(out + half + c, y2.to(out.dtype.element_ty), mask=inside)
    tl.store(out + 2 * half + r, y3.to(out.dtype.element_ty), mask=beyond)


@kernel()
def _kernel(
    q, k, q_grad, k_grad, v, q_out, k_out, v_out, q_weight, k_weight, position_ids, cos, sin, heads, kv_heads,
    half: tl.constexpr, rest: tl.constexpr, size: tl.constexpr,  # multiples of 8 are read as vectors only if known
    q_eps, k_eps, q_row, q_head, k_row, k_head, qg_row, qg_head, kg_row, kg_head, v_row, v_head,
    qo_row, qo_head, ko_row, ko_head, vo_row, vo_head,
    BACKWARD: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if part == 2:  # v is only copied
        h = tl.arange(0, KV_HEADS)[:, None]
        d = tl.arange(0, SIZE)[None, :]
        inside = (h < kv_heads) & (d < size)
        value = tl.load(v + row * v_row + h * v_head + d, mask=inside)
        tl.store(v_out + row * vo_row + h * vo_head + d, value, mask=inside)
    else:
        c = tl.arange(0, HALF)[None, :]
        angle = tl.load(position_ids + row) * half + c
        co = tl.load(cos + angle, mask=c < half, other=0.0)
        si = tl.load(sin + angle, mask=c < half, other=0.0)
        if part == 0:
            _heads(q + row * q_row, q_grad + row * qg_row, q_out + row * qo_row, q_weight, q_head, qg_head, qo_head,
                   heads, co, si, q_eps, half, rest, size, BACKWARD, HEADS, HALF, REST)  # fmt: skip
        else:
            _heads(k + row * k_row, k_grad + row * kg_row, k_out + row * ko_row, k_weight, k_head, kg_head, ko_head,
                   kv_heads, co, si, k_eps, half, rest, size, BACKWARD, KV_HEADS, HALF, REST)  # fmt: skip


@triton.jit
def store_gradient(out, out_row, grad, r, rows, start, head, rotary, norm):
    """Stores the gradient of a head's queries or keys for the tokens ``r`` of a text, taken back as far as it is told.

    Args:
        out: Where the head of the text's first token goes.
        out_row: Stride of a token in ``out``.
        grad: float32, shape ``(tokens, head_size)``.
        r: The tokens, counted from the start of the text.
        rows: Which of them are in the text.
        start: The text's first token.
        head: The number of the head.
        rotary: Of ``gradient_inputs``; None: ``grad`` is stored as it is.
        norm: The same; None: there is no norm.
    """
    D: tl.constexpr = grad.shape[1]
    if rotary is None:
        d = tl.arange(0, D)
        tl.store(out + r[:, None] * out_row + d[None, :], grad.to(out.dtype.element_ty), mask=rows[:, None])
    else:
        cos, sin, last = rotary
        M: tl.constexpr = grad.shape[0]
        H: tl.constexpr = D // 2
        c = tl.arange(0, H)
        # A text that only fills up a CUDA graph may be longer than the table.
        angle = tl.minimum(r, last)[:, None] * H + c[None, :]
        first, second = tl.split(tl.permute(tl.reshape(grad, (M, 2, H)), (0, 2, 1)))
        first, second = _rotate_backward(first, second, tl.load(cos + angle), tl.load(sin + angle))
        if norm is not None:
            x, x_row, x_head, weight, eps = norm
            x += start * x_row + head * x_head
            place = r[:, None] * x_row + c[None, :]
            x1 = tl.load(x + place, mask=rows[:, None], other=0.0).to(tl.float32)
            x2 = tl.load(x + H + place, mask=rows[:, None], other=0.0).to(tl.float32)
            none = tl.zeros((M, 1), tl.float32)
            scale = _inverse_root(x1, x2, none, D, eps)
            u1 = first * tl.load(weight + c).to(tl.float32)[None, :]
            u2 = second * tl.load(weight + H + c).to(tl.float32)[None, :]
            first, second, _ = _norm_backward(x1 * scale, x2 * scale, none, u1, u2, none, scale, D)
        out += r[:, None] * out_row + c[None, :]
        tl.store(out, first.to(out.dtype.element_ty), mask=rows[:, None])
        tl.store(out + H, second.to(out.dtype.element_ty), mask=rows[:, None])


def gradient_inputs(before: HeadInputs | None, i: int) -> tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]:
    """``(rotary, norm)`` as ``store_gradient`` takes them for the query (``i`` = 0) or the key (1)."""
    if before is None:
        return None, None
    rotary = before.rotary.cos, before.rotary.sin, len(before.rotary.cos) - 1
    norm = (before.spec.query_norm, before.spec.key_norm)[i]
    if before.saved is None or norm is None:
        return rotary, None
    x = before.saved[i]
    return rotary, (x, x.stride(0), x.stride(1), norm.weight, norm.eps)


def norm_and_rotate(
    source: Sequence[Tensor], target: Sequence[Tensor], norms: tuple[Norm, Norm],
    position_ids: Tensor, cos: Tensor, sin: Tensor,
) -> None:  # fmt: skip
    """See ``head_norms.rotate_heads``; ``target`` may be ``source``."""
    _launch(source[:2], source, target, norms, position_ids, cos, sin, backward=False)


def norm_and_rotate_backward(
    source: Sequence[Tensor], target: Sequence[Tensor], saved: Sequence[Tensor], norms: tuple[Norm, Norm],
    position_ids: Tensor, cos: Tensor, sin: Tensor,
) -> None:  # fmt: skip
    """See ``head_norms.rotate_heads_backward``."""
    _launch(saved, source, target, norms, position_ids, cos, sin, backward=True)


def _launch(
    x: Sequence[Tensor], grad: Sequence[Tensor], target: Sequence[Tensor], norms: tuple[Norm, Norm],
    position_ids: Tensor, cos: Tensor, sin: Tensor, backward: bool,
) -> None:  # fmt: skip
    rows, heads, size = x[0].shape
    kv_heads, half = x[1].shape[1], cos.shape[1]
    copies = grad[2].data_ptr() != target[2].data_ptr()
    strides = [stride for part in (*x, *grad, *target) for stride in part.stride()[:2]]
    _kernel[(rows, 3 if copies else 2)](
        *x, *grad, *target, norms[0].weight, norms[1].weight, position_ids, cos, sin, heads, kv_heads,
        half, size - 2 * half, size, norms[0].eps, norms[1].eps, *strides, BACKWARD=backward,
        HEADS=triton.next_power_of_2(heads), KV_HEADS=triton.next_power_of_2(kv_heads),
        HALF=triton.next_power_of_2(half), REST=triton.next_power_of_2(max(size - 2 * half, 1)),
        SIZE=triton.next_power_of_2(size),
    )  # fmt: skip
