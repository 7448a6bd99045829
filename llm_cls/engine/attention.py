"""Causal attention within each text of a packed batch, forward and backward.

On a GPU in half precision it is one call without a mask and without padding: the kernels of
``triton_attention.py``, or for the last layer, unusual head sizes and smaller chips PyTorch's variable-length flash
kernel (Dao, 2023). Elsewhere PyTorch's own attention is called once per run of texts of equal length, and its
autograd does the backward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# The kernels of ``triton_attention.py`` take these head sizes, and 112 KiB of shared memory: A100, H100, H200, B200.
BLOCK_SIZES = (32, 64, 128)
_BLOCK_CHIPS = ((8, 0), (9, 0), (10, 0))


@dataclass(frozen=True)
class Texts:
    """Where the texts of a packed batch lie.

    Attributes:
        positions: int32, shape ``(tokens,)``: each token's place in its text.
        ends: int32, shape ``(n + 1,)``: where each text begins, and where the last one ends.
        last: int64, shape ``(n,)``: the last token of each text.
        lengths: Tokens of each text; used where there is no variable-length kernel.
        longest: Upper bound of the lengths.
    """

    positions: Tensor
    ends: Tensor
    last: Tensor
    lengths: Sequence[int]
    longest: int


def places(lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Where texts of these lengths lie in a packed batch.

    >>> places([2, 1])
    (tensor([0, 1, 0]), tensor([0, 2, 3]))

    Returns:
        ``(positions, ends)`` as in ``Texts``, but int64 and on the CPU.
    """
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return torch.arange(int(ends[-1])) - ends[:-1].repeat_interleave(ends.diff()), ends


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the variable-length kernel runs here."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0)


def attend(
    q: Tensor, k: Tensor, v: Tensor, texts: Texts, scaling: float, only_last: bool, save: bool
) -> tuple[Tensor, Any]:
    """Attention of each token to those before it in its text.

    Args:
        q: Shape ``(tokens, heads, head_size)``, or with ``only_last`` ``(n, heads, head_size)``.
        k: Shape ``(tokens, kv_heads, head_size)``.
        v: The same.
        texts: Where the texts lie.
        scaling: Of the scores.
        only_last: Whether ``q`` has the last token of each text alone.
        save: Whether ``attend_backward`` will be called.

    Returns:
        ``(output, saved)``: the output has the shape of ``q``.
    """
    if has_varlen(q.device, q.dtype):
        if not only_last and _has_blocks(q, texts.longest):
            output, lse = _triton().attend(q, k, v, texts.ends, texts.longest, scaling)
            return output, _Blocks(q, k, v, output, lse)
        ends_q = torch.arange(len(q) + 1, dtype=torch.int32, device=q.device) if only_last else texts.ends
        longest_q = 1 if only_last else texts.longest
        output, lse, *rng, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, ends_q, texts.ends, longest_q, texts.longest, 0.0, not only_last, False, scale=scaling
        )
        return output, _Flash(q, k, v, output, lse, ends_q, longest_q, *rng)
    if not save:
        return per_text(q, k, v, texts.lengths, scaling, only_last), None
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        output = per_text(q, k, v, texts.lengths, scaling, only_last)
    return output.detach(), _Autograd(q, k, v, output)


def attend_backward(
    saved: Any, grad: Tensor, texts: Texts, scaling: float, only_last: bool, target: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Gradients with respect to ``q``, ``k`` and ``v``, from what ``attend`` saved.

    Returns:
        ``target``, written, where the kernel can do that; new tensors otherwise.
    """
    if isinstance(saved, _Blocks):
        _triton().attend_backward(*saved, grad, target, texts.ends, texts.longest, scaling)
        return target
    if isinstance(saved, _Autograd):
        return torch.autograd.grad(saved.output, saved[:3], grad)
    q, k, v, output, lse, ends_q, longest_q, rng, unused = saved
    with _one_order():
        gradients: tuple[Tensor, ...] = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, output, lse, ends_q, texts.ends, longest_q, texts.longest, 0.0, not only_last, rng, unused,
            scale=scaling,
        )  # fmt: skip
    return gradients


def _has_blocks(q: Tensor, longest: int) -> bool:
    """Whether the kernels of ``triton_attention.py`` take these queries; within a text they count in 32 bits."""
    return (
        q.shape[-1] in BLOCK_SIZES
        and torch.cuda.get_device_capability(q.device) in _BLOCK_CHIPS
        and longest * q.stride(0) < 2**31
    )


@contextmanager
def _one_order() -> Iterator[None]:
    """Has the flash kernel add up a query's gradient in one order, so that a run can be repeated bit by bit."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class _Blocks(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    lse: Tensor


class _Autograd(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor


class _Flash(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    lse: Tensor
    ends_q: Tensor
    longest_q: int
    rng: Tensor
    unused: Tensor


def _triton() -> Any:
    from llm_cls.engine.triton import attention as triton_attention  # Triton comes with torch's CUDA build alone

    return triton_attention


def per_text(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    scaling: float | None,
    only_last: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """What ``attend`` computes, by one call of PyTorch's attention per run of texts of equal length."""
    grouped = k.shape[1] != q.shape[1]
    runs = [(len(list(run)), length) for length, run in groupby(lengths)]
    tokens = [n * length for n, length in runs]
    parts = (q.split([n for n, _ in runs] if only_last else tokens), k.split(tokens), v.split(tokens))
    outputs = []
    for (n, _), *run in zip(runs, *parts, strict=True):
        query, key, value = (x.unflatten(0, (n, -1)).transpose(1, 2) for x in run)
        output = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=not only_last, scale=scaling, enable_gqa=grouped
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
