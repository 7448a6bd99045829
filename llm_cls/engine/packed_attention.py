"""Attention over packed texts as a function that the layers of ``transformers`` call."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from llm_cls.engine.attention import packed_sdpa

PACKED_ATTENTION = "llm_cls_packed"  # the name under which it is registered
_UNSUPPORTED = ("softcap", "s_aux", "sliding_window", "position_bias")  # arguments of transformers' own functions


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int = 0,
    seq_lens: Sequence[int] = (),
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each text of a packed batch; registered with ``transformers``.

    Args:
        module: The attention layer.
        query: Shape ``(1, heads, total_tokens, head_size)``; ``key`` and ``value`` may have fewer heads.
        key: See ``query``.
        value: See ``query``.
        attention_mask: None: the boundaries replace it.
        scaling: Factor of the scores; None is ``head_size ** -0.5``.
        dropout: Of the probabilities; not with ``cu_seqlens``.
        cu_seqlens: int32, shape ``(n + 1,)``: where each text begins and the last one ends.
        max_seqlen: With ``cu_seqlens``, an upper bound of the lengths.
        seq_lens: The lengths, where there is no variable-length kernel.
        **kwargs: Whatever else an architecture passes.

    Returns:
        ``(output, None)`` with an output of shape ``(1, total_tokens, heads, head_size)``.

    Raises:
        ValueError: The architecture asks for scores of another kind.
    """
    if unsupported := [name for name in _UNSUPPORTED if kwargs.get(name) is not None]:
        raise ValueError(f"attention with {unsupported[0]} is not supported")
    if attention_mask is not None:  # what it adds to the scores would be lost
        raise ValueError("attention with a mask of the architecture's own is not supported")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if cu_seqlens is None:
        return packed_sdpa(q, k, v, seq_lens, scaling, dropout=dropout)[None], None
    q, k = q.to(v.dtype), k.to(v.dtype)
    return _varlen(q, k, v, cu_seqlens, max_seqlen, scaling)[None], None


# The signature still changes from release to release.
_VARLEN_HAS_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters
_VARLEN_HAS_WINDOW = "window_size" in inspect.signature(varlen_attn).parameters


def _varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scaling: float | None) -> Tensor:
    grouped = k.shape[1] != q.shape[1]
    if grouped and not _VARLEN_HAS_GQA:
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    options: dict[str, Any] = {"enable_gqa": grouped} if _VARLEN_HAS_GQA else {}
    options |= {"window_size": (-1, 0)} if _VARLEN_HAS_WINDOW else {"is_causal": True}
    output: Any = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, scale=scaling, **options)
    result: Tensor = output
    return result
