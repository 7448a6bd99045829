"""Dropout as a Triton kernel; a program takes a piece of a row, and each random draw serves four columns."""

import triton
import triton.language as tl
from torch import Tensor

from llm_cls.engine.tensors import DropoutMask


@triton.jit
def _dropout_kernel(
    x, out, rng, token_index, stream, p, scale, quarter, x_row,
    ADD: tl.constexpr, INDEXED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < quarter
    seed = tl.load(rng) * 4096 + stream
    index = tl.load(token_index + row) if INDEXED else row
    token = (tl.load(rng + 1) + index).to(tl.int32)
    r0, r1, r2, r3 = tl.randint4x(seed, token * quarter + c, n_rounds=7)  # 7 rounds pass BigCrush (Salmon et al., 2011)
    start = row.to(tl.int64) * quarter * 4 + c
    for i in tl.static_range(4):
        bits = r0 if i == 0 else (r1 if i == 1 else (r2 if i == 2 else r3))
        kept = tl.uint_to_uniform_float(bits) >= p
        value = tl.load(x + row.to(tl.int64) * x_row + c + i * quarter, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(kept, value * scale, 0.0)
        if ADD:
            value += tl.load(out + start + i * quarter, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + start + i * quarter, value.to(out.dtype.element_ty), mask=inside)


def dropout(x: Tensor, total: Tensor | None, mask: DropoutMask) -> Tensor:
    """See ``kernels.dropout``; with ``total``, ``kernels.add_dropout``."""
    rows, cols = x.shape
    out = x.new_empty(rows, cols) if total is None else total
    quarter = cols // 4
    block = min(triton.next_power_of_2(quarter), 1024)
    _dropout_kernel[(rows, triton.cdiv(quarter, block))](
        x,
        out,
        mask.state.rng,
        mask.state.token_index,
        mask.stream,
        mask.p,
        1 / (1 - mask.p),
        quarter,
        x.stride(0),
        ADD=total is not None,
        INDEXED=mask.state.token_index is not None,
        BLOCK=block,
    )
    return out
