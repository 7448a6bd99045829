"""The products with LoRA's ``A``, forward and backward, for adapters that share an input; with their dropout.

On a GPU a mask is drawn from a counter: the mask of a token depends on the seed, the adapter and the token's place in
the optimizer step. So neither packing nor micro batches change it. It is stored as one bit per element for the backward
pass; ``triton/lora.py`` applies it while it computes the product. Elsewhere ``dropout(x)`` itself is stored.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llm_cls.engine import kernels
from llm_cls.engine.products import linear, product_over_rows
from llm_cls.engine.tensors import AdapterPart, DropoutMask


class SavedDown(NamedTuple):
    """The result of ``down`` and what ``down_backward`` needs.

    Attributes:
        x: The input, shape ``(rows, in_features)``.
        down: ``A dropout(x)`` of one adapter after the other, shape ``(rows, n * r)``.
        dropped: Per adapter ``dropout(x)``; empty on a GPU.
        keep: The bits of the masks on a GPU; None where nothing is dropped.
    """

    x: Tensor
    down: Tensor
    dropped: Sequence[Tensor]
    keep: Tensor | None


def down(x: Tensor, a: Tensor, n: int, mask: DropoutMask | None, out: Tensor | None = None) -> SavedDown:
    """``A dropout(x)`` of ``n`` adapters.

    Args:
        x: Shape ``(rows, in_features)``.
        a: Their weights, one below the other: shape ``(n * r, in_features)``.
        n: Number of adapters.
        mask: Of the first of them; the others have the streams that follow. None: nothing is dropped.
        out: Where the result goes on a GPU, shape ``(rows, n * r)``; None: into new memory.
    """
    if kernels.uses_triton(x):
        keep = None if mask is None else kernels.triton("lora").draw(mask, n, *x.shape)
        result = x.new_empty(len(x), len(a)) if out is None else out
        kernels.triton("lora").down(x, a, n, keep, _factor(mask), result)
        return SavedDown(x, result, [], keep)
    dropped = [x if mask is None else dropout(x, _of(mask, i)) for i in range(n)]
    downs = [linear(part, weight) for part, weight in zip(dropped, a.chunk(n), strict=True)]
    return SavedDown(x, torch.cat(downs, 1) if n > 1 else downs[0], dropped, None)


def down_backward(
    saved: SavedDown, grad: Tensor, a: Tensor, n: int, mask: DropoutMask | None, total: Tensor | None, out: Tensor
) -> None:
    """The gradients of the ``n`` weights ``A``.

    Args:
        saved: What ``down`` returned.
        grad: With respect to its result, shape ``(rows, n * r)``.
        a: As ``down`` was given.
        n: Likewise.
        mask: Likewise.
        total: Receives the gradient with respect to ``x``, which is added to it; None: it is not needed.
        out: Receives those of ``A``, one below the other: shape ``(n * r, in_features)``.
    """
    if kernels.uses_triton(saved.x):
        if total is not None:
            whole(total, adapter_part(saved, grad, a, n, mask))
        kernels.triton("lora").weight_grad(saved.x, grad, n, saved.keep, _factor(mask), out)
        return
    for i, (part, weight, target) in enumerate(zip(grad.chunk(n, 1), a.chunk(n), out.chunk(n), strict=True)):
        product_over_rows(part, saved.dropped[i], target)
        if total is None:
            continue
        if mask is None:
            total.addmm_(part, weight)
        else:
            add_dropout(total, linear(part, weight.t()), _of(mask, i))


def adapter_part(saved: SavedDown, grad: Tensor, a: Tensor, n: int, mask: DropoutMask | None) -> AdapterPart:
    """What ``down_backward`` adds to the gradient with respect to ``x``, on a GPU; it has the arguments."""
    return AdapterPart(grad, a, n, saved.keep, _factor(mask))


def whole(gradient: Tensor | None, part: AdapterPart | None) -> Tensor:
    """``gradient``, to which ``part`` is added on a GPU."""
    assert gradient is not None
    if part is not None:
        kernels.triton("lora").add_input_grad(gradient, part)
    return gradient


def dropout(x: Tensor, mask: DropoutMask) -> Tensor:
    """``x`` with the elements that ``mask`` drops set to 0 and the others divided by ``1 - p``."""
    return x * _keep_factor(x, mask)


def add_dropout(total: Tensor, x: Tensor, mask: DropoutMask) -> None:
    """Adds ``dropout(x, mask)`` to ``total``."""
    total.addcmul_(x, _keep_factor(x, mask))


def _factor(mask: DropoutMask | None) -> float:
    return 1.0 if mask is None else mask.factor


def _of(mask: DropoutMask, i: int) -> DropoutMask:
    return mask._replace(stream=mask.stream + i)


def _keep_factor(x: Tensor, mask: DropoutMask) -> Tensor:
    """The factor of each element. Sixteen random bits decide on one: several times as fast as ``bernoulli_``."""
    seed, first_token = mask.state.rng.tolist()
    generator = torch.Generator().manual_seed((seed * 1_000_003 + first_token) * 4099 + mask.stream)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= mask.drops - 32768
    return kept.to(x.dtype).mul_(mask.factor)
