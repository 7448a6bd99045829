"""Query and key before attention: a norm of each head where a family has one, and the rotary position embedding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llm_cls.engine import kernels
from llm_cls.engine.spec import AttentionSpec, HeadInputs, RotaryTable, SavedHeads
from llm_cls.engine.tensors import Norm, Stream


def rotate_heads(
    qkv: Tensor, spec: AttentionSpec, position_ids: Tensor, rotary: RotaryTable, save: bool
) -> tuple[Sequence[Tensor], SavedHeads | None]:
    """Query, key and value as attention takes them.

    Args:
        qkv: The projection's output, shape ``(tokens, out_features)``; it may be overwritten.
        spec: Of the attention.
        position_ids: int32, shape ``(tokens,)``.
        rotary: Its angles.
        save: Whether ``rotate_heads_backward`` will be called.

    Returns:
        ``(parts, saved)`` with parts of shape ``(tokens, heads, head_size)``; only norms need something saved.
    """
    parts = spec.split(qkv)
    if spec.query_norm is None or spec.key_norm is None:
        kernels.rotate(parts, parts, position_ids, rotary.cos, rotary.sin, 1)
        return parts, None
    target = spec.split(torch.empty_like(qkv)) if save else parts
    norms = spec.query_norm, spec.key_norm
    if kernels.uses_triton(qkv):
        kernels.triton("head_norms").norm_and_rotate(parts, target, norms, position_ids, rotary.cos, rotary.sin)
    else:
        normed = [_rows(kernels.norm, x, norm).view_as(x) for x, norm in zip(parts[:2], norms, strict=True)]
        kernels.rotate([*normed, parts[2]], target, position_ids, rotary.cos, rotary.sin, 1)
    return target, SavedHeads(*parts[:2])


def rotate_heads_backward(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    before: HeadInputs,
    position_ids: Tensor,
) -> None:
    """From the gradients of attention's inputs, ``source``, to those of the projection's output, ``target``.

    Both consist of query, key and value; a part of ``source`` may be that of ``target``. Some of attention's kernels do
    this themselves: ``attention.reaches_projection``.
    """
    spec, rotary, saved = before
    if saved is None or spec.query_norm is None or spec.key_norm is None:
        kernels.rotate(source, target, position_ids, rotary.cos, rotary.sin, -1)
        return
    norms = spec.query_norm, spec.key_norm
    if kernels.uses_triton(saved.q):
        kernels.triton("head_norms").norm_and_rotate_backward(
            source, target, saved, norms, position_ids, rotary.cos, rotary.sin
        )
        return
    kernels.rotate(source, target, position_ids, rotary.cos, rotary.sin, -1)
    for grad, x, norm in zip(target, saved, norms, strict=False):
        size = x.shape[-1]
        found = kernels.norm_backward(grad.reshape(-1, size), x.reshape(-1, size), norm, None)
        grad.copy_(found.tensor.view_as(grad))


def _rows(function: Any, x: Tensor, norm: Norm) -> Tensor:
    found: Tensor = function(Stream(x.reshape(-1, x.shape[-1])), norm).normed.tensor
    return found
