"""Causal attention within each text of a packed batch, forward and backward.

On a GPU in half precision it is one call without a mask and without padding: the kernels of ``triton/attention.py``, or
for the last layer, other head sizes and smaller GPUs PyTorch's variable-length flash kernel (Dao, 2023), which has no
soft cap. Elsewhere PyTorch's own attention is called once per run of texts of equal length, and its autograd does the
backward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_cls.engine import kernels
from llm_cls.engine.packing import PackedLayout
from llm_cls.engine.spec import HeadInputs, Scores

# The Triton kernels take these head sizes. They need 112 KiB of shared memory: A100, H100, H200, B200.
TRITON_HEAD_SIZES = (32, 64, 128, 256)
_TRITON_CAPABILITIES = ((8, 0), (9, 0), (10, 0))


class _SavedByTriton(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    lse: Tensor


class _SavedByAutograd(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor


class _SavedByFlash(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    lse: Tensor
    cu_seqlens_q: Tensor
    max_seqlen_q: int
    rng: Tensor
    unused: Tensor


SavedAttention = _SavedByTriton | _SavedByAutograd | _SavedByFlash


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether PyTorch's variable-length kernel runs on this device in this dtype."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0)


def has_attention_kernel(device: torch.device, dtype: torch.dtype, head_size: int, scores: Scores) -> bool:
    """Whether ``attend`` is one call, which needs no lengths on the host."""
    return has_varlen_kernel(device, dtype) and (scores.softcap is None or _has_triton_kernel(device, head_size))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    scores: Scores,
    only_last: bool,
    save: bool,
    extra_columns: int = 0,
) -> tuple[Tensor, SavedAttention | None]:
    """Attention of each token to itself and to those before it in its text.

    Args:
        q: Shape ``(tokens, heads, head_size)``, or with ``only_last`` ``(n, heads, head_size)``.
        k: Shape ``(tokens, kv_heads, head_size)``.
        v: Shape ``(tokens, kv_heads, head_size)``.
        layout: Where the texts lie.
        scores: How a query weighs the keys.
        only_last: Whether ``q`` consists of the last token of each text.
        save: Whether ``attend_backward`` will be called.
        extra_columns: Unused columns to allocate behind the output of a token, where the kernel can.

    Returns:
        ``(output, saved)``: the output has the shape of ``q``.
    """
    if has_attention_kernel(q.device, q.dtype, q.shape[-1], scores):
        if only_last and scores != Scores(scores.scaling):
            q = _among_all(q, k, layout)
            output, saved = attend(q, k, v, layout, scores, False, save)
            return output[layout.last_tokens], saved
        offsets = layout.max_seqlen * q.stride(0)  # within a text the Triton kernels' have 32 bits
        if not only_last and offsets < 2**31 and _has_triton_kernel(q.device, q.shape[-1]):
            output, lse = kernels.triton("attention").attend(
                q, k, v, layout.cu_seqlens, layout.max_seqlen, scores, extra_columns
            )
            return output, _SavedByTriton(q, k, v, output, lse)
        assert scores.softcap is None, "the flash kernel has none"
        cu_seqlens_q, max_seqlen_q = layout.cu_seqlens, layout.max_seqlen
        if only_last:
            cu_seqlens_q, max_seqlen_q = torch.arange(len(q) + 1, dtype=torch.int32, device=q.device), 1
        output, lse, *rng, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, cu_seqlens_q, layout.cu_seqlens, max_seqlen_q, layout.max_seqlen, 0.0, not only_last, False,
            scale=scores.scaling, **_flash_window(scores),
        )  # fmt: skip
        return output, _SavedByFlash(q, k, v, output, lse, cu_seqlens_q, max_seqlen_q, *rng)
    options: dict[str, Any] = {"window": scores.window, "softcap": scores.softcap}
    if not save:
        return packed_sdpa(q, k, v, layout.seq_lens, scores.scaling, only_last, **options), None
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        output = packed_sdpa(q, k, v, layout.seq_lens, scores.scaling, only_last, **options)
    return output.detach(), _SavedByAutograd(q, k, v, output)


def reaches_projection(saved: SavedAttention, only_last: bool, before: HeadInputs) -> bool:
    """Whether ``attend_backward`` takes ``before``: the Triton kernels do where a head is rotated as a whole."""
    whole = 2 * before.rotary.cos.shape[1] == before.spec.head_size
    return isinstance(saved, _SavedByTriton) and whole and not only_last


def attend_backward(
    saved: SavedAttention,
    grad: Tensor,
    layout: PackedLayout,
    scores: Scores,
    only_last: bool,
    target: Sequence[Tensor],
    before: HeadInputs | None = None,
) -> Sequence[Tensor]:
    """Gradients with respect to ``q``, ``k`` and ``v``, from what ``attend`` saved.

    With ``before``, which ``reaches_projection`` must allow, they are those with respect to the projection's output.

    Returns:
        ``target``, written, where the kernel can write there; new tensors otherwise.
    """
    if isinstance(saved, _SavedByAutograd):
        return torch.autograd.grad(saved.output, saved[:3], grad)
    if only_last and scores != Scores(scores.scaling):
        whole = attend_backward(saved, _among_all(grad, saved.k, layout), layout, scores, False, target)
        return whole[0][layout.last_tokens], *whole[1:]
    if isinstance(saved, _SavedByTriton):
        kernels.triton("attention").attend_backward(
            *saved, grad, target, layout.cu_seqlens, layout.max_seqlen, scores, before
        )
        return target
    q, k, v, output, lse, cu_seqlens_q, max_seqlen_q, rng, unused = saved
    with _deterministic():
        gradients: tuple[Tensor, ...] = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, output, lse, cu_seqlens_q, layout.cu_seqlens, max_seqlen_q, layout.max_seqlen, 0.0,
            not only_last, rng, unused, scale=scores.scaling, **_flash_window(scores),
        )  # fmt: skip
    return gradients


def packed_sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_lens: Sequence[int],
    scaling: float | None,
    only_last: bool = False,
    dropout: float = 0.0,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The output of ``attend``, by one call of PyTorch's attention per run of texts of equal length."""
    grouped = k.shape[1] != q.shape[1]
    runs = [(len(list(run)), seq_len) for seq_len, run in groupby(seq_lens)]
    tokens = [n * seq_len for n, seq_len in runs]
    parts = (q.split([n for n, _ in runs] if only_last else tokens), k.split(tokens), v.split(tokens))
    outputs = []
    for (n, seq_len), *run in zip(runs, *parts, strict=True):
        query, key, value = (x.unflatten(0, (n, -1)).transpose(1, 2) for x in run)
        visible = None
        if softcap is not None or (window is not None and window < seq_len):
            visible = _visible(seq_len, window or seq_len, q.device)[-query.shape[2] :]
        if softcap is not None:
            assert visible is not None and scaling is not None and not dropout
            output = _capped_attention(query, key, value, visible, scaling, softcap)
        else:
            output = F.scaled_dot_product_attention(
                query, key, value, attn_mask=visible, dropout_p=dropout, is_causal=visible is None and not only_last,
                scale=scaling, enable_gqa=grouped,
            )  # fmt: skip
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _visible(seq_len: int, window: int, device: torch.device) -> Tensor:
    """Which token of a text (the row) attends to which (the column)."""
    distance = torch.arange(seq_len, device=device)[:, None] - torch.arange(seq_len, device=device)
    return (distance >= 0) & (distance < window)


def _capped_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scaling: float, softcap: float) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = softcap * torch.tanh(q @ k.transpose(-1, -2) * (scaling / softcap))
    wide = torch.promote_types(q.dtype, torch.float32)
    return scores.masked_fill(~visible, -torch.inf).softmax(-1, dtype=wide).to(q.dtype) @ v


def _among_all(rows: Tensor, tokens: Tensor, layout: PackedLayout) -> Tensor:
    """The rows of the last tokens at their places among all tokens; zeros elsewhere."""
    return rows.new_zeros(len(tokens), *rows.shape[1:]).index_copy_(0, layout.last_tokens, rows)


def _flash_window(scores: Scores) -> dict[str, int]:
    """The window as the flash kernel takes it: how many tokens on each side."""
    return {} if scores.window is None else {"window_size_left": scores.window - 1, "window_size_right": 0}


def _has_triton_kernel(device: torch.device, head_size: int) -> bool:
    """Whether the kernels of ``triton/attention.py`` take heads of this size on this GPU."""
    return head_size in TRITON_HEAD_SIZES and torch.cuda.get_device_capability(device) in _TRITON_CAPABILITIES


@contextmanager
def _deterministic() -> Iterator[None]:
    """Makes the flash kernel add up a query's gradient in a fixed order, so that a run can be repeated bit by bit.

    PyTorch would also fill all new memory with NaN, which takes as long as an element-wise kernel each time.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
