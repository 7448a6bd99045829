"""Casts of many weights as one Triton kernel; PyTorch would start one for each that is part of a larger tensor."""

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from llm_cls.engine.triton.launch import kernel

_BLOCK = 2048  # elements of one program
_FIELDS = 6  # of a program: see ``table``


@kernel()
def _cast_kernel(programs, factors, like, like_cast, FIELDS: tl.constexpr, BLOCK: tl.constexpr):
    program = programs + tl.program_id(0) * FIELDS
    source = tl.load(program).to(like.dtype)
    target = tl.load(program + 1).to(like_cast.dtype)
    first, size, cols, target_row = (
        tl.load(program + 2), tl.load(program + 3), tl.load(program + 4), tl.load(program + 5)
    )  # fmt: skip
    place = first + tl.arange(0, BLOCK)
    value = tl.load(source + place, mask=place < size, other=0.0) * tl.load(factors + tl.program_id(0))
    target += place // cols * target_row + place % cols
    tl.store(target, value.to(like_cast.dtype.element_ty), mask=place < size)


def table(casts: Sequence[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """What ``cast`` does, on the device of the weights.

    Args:
        casts: Weights, where their casts go, each of the same shape, and the factor.

    Returns:
        ``(programs, factors)``. A row of ``programs``, int64, is a piece of a weight: the address of the weight and of
        its cast, the first element, the size and the columns of the weight, and the distance of the cast's rows.
        ``factors``, float32, has the factor of each piece.
    """
    rows, factors = [], []
    for weight, cast_weight, factor in casts:
        assert weight.is_contiguous() and cast_weight.stride(1) == 1
        size, target_row = weight.numel(), cast_weight.stride(0)
        for first in range(0, size, _BLOCK):
            rows.append([weight.data_ptr(), cast_weight.data_ptr(), first, size, weight.shape[1], target_row])
            factors.append(factor)
    device = casts[0][0].device
    return torch.tensor(rows, device=device), torch.tensor(factors, dtype=torch.float32, device=device)


def cast(programs: Tensor, factors: Tensor, like: Tensor, like_cast: Tensor) -> None:
    """Updates the casts of which ``table`` was made; ``like`` is one of the weights and ``like_cast`` its cast."""
    _cast_kernel[(len(programs),)](programs, factors, like, like_cast, FIELDS=_FIELDS, BLOCK=_BLOCK)
