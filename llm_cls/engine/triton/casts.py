"""The casts of all adapters as one Triton kernel; PyTorch would start one for each that is part of a larger tensor."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from llm_cls.engine.lora import Adapter

_BLOCK = 2048  # elements of one program
_FIELDS = 6  # of a program: see ``table``


@triton.jit
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


def table(adapters: Sequence[Adapter]) -> tuple[Tensor, Tensor]:
    """What ``cast`` does, on the device of the adapters.

    Returns:
        ``(programs, factors)``. A row of ``programs``, int64, is a piece of a weight: the address of the weight and of
        its cast, the first element, the size and the columns of the weight, and the distance of the cast's rows.
        ``factors``, float32, has the factor of each piece.
    """
    casts = [(x.a, x.a_cast, 1.0) for x in adapters] + [(x.b, x.b_cast, x.scaling) for x in adapters]
    rows, factors = [], []
    for weight, cast_weight, factor in casts:
        assert weight.is_contiguous() and cast_weight.stride(1) == 1
        size, target_row = weight.numel(), cast_weight.stride(0)
        for first in range(0, size, _BLOCK):
            rows.append([weight.data_ptr(), cast_weight.data_ptr(), first, size, weight.shape[1], target_row])
            factors.append(factor)
    device = adapters[0].a.device
    return torch.tensor(rows, device=device), torch.tensor(factors, dtype=torch.float32, device=device)


def cast(programs: Tensor, factors: Tensor, like: Adapter) -> None:
    """Updates the casts of adapters; ``like`` is one of those of which ``table`` was made."""
    _cast_kernel[(len(programs),)](programs, factors, like.a, like.a_cast, FIELDS=_FIELDS, BLOCK=_BLOCK)
