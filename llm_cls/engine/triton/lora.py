"""The products with LoRA's ``A`` as Triton kernels, with dropout inside.

``A dropout(x)`` and its backward pass are bound by reading and writing ``x`` and its gradient. PyTorch would write
``dropout(x)`` for each adapter and read it again; here ``x`` is read once per product, and what is kept for the
backward pass is one bit per element. The bits are drawn once: column ``8 j + i`` is bit ``i`` of byte ``j``.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from llm_cls.engine.tensors import AdapterPart, DropoutMask
from llm_cls.engine.triton.launch import kernel, shared_memory

TILE = 128  # columns that a program computes at a time; the bits of a row fill whole tiles
_MAX_ROWS = 64  # that a program takes
_PROCESSORS = 132  # of an H100
_PROGRAMS = 528  # that read the input for the gradient of ``A``: four on each of an H100's processors


@triton.jit
def _philox(counter, seed):
    """What ``tl.randint4x`` draws in 7 rounds, which pass BigCrush (Salmon et al., 2011), in fewer instructions."""
    key0, key1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    c0 = counter.to(tl.uint32)
    c1, c2, c3 = tl.zeros_like(c0), tl.zeros_like(c0), tl.zeros_like(c0)
    for _ in tl.static_range(7):
        first, second = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (second >> 32).to(tl.uint32) ^ c1 ^ key0
        c2 = (first >> 32).to(tl.uint32) ^ c3 ^ key1
        c1, c3 = second.to(tl.uint32), first.to(tl.uint32)
        key0 = tl.add(key0, 0x9E3779B9, sanitize_overflow=False)
        key1 = tl.add(key1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@kernel(do_not_specialize=["stream", "drops", "rows"])
def _keep_kernel(
    keep, rng, token_index, stream, drops, mask_row, rows, INDEXED: tl.constexpr, M: tl.constexpr, BYTES: tl.constexpr
):  # fmt: skip
    tiles = mask_row // BYTES
    row = tl.program_id(0) // tiles * M + tl.arange(0, M)
    byte = tl.program_id(0) % tiles * BYTES + tl.arange(0, BYTES)
    adapter = tl.program_id(1)
    inside = row < rows
    index = tl.load(token_index + row, mask=inside, other=0) if INDEXED else row
    token = (tl.load(rng + 1) + index).to(tl.int32)
    seed = tl.load(rng) * 4096 + stream + adapter
    place = (token * mask_row)[:, None] + byte[None, :]
    r0, r1, r2, r3 = _philox(place, seed)
    least = drops.to(tl.uint32) << 16  # sixteen random bits decide on an element; they are compared where they lie
    bits = tl.zeros((M, BYTES), tl.int32)
    for i in tl.static_range(4):
        drawn = (r0 if i == 0 else (r1 if i == 1 else (r2 if i == 2 else r3))).to(tl.uint32)
        bits |= tl.where((drawn << 16) >= least, 1 << (2 * i), 0)
        bits |= tl.where(drawn >= least, 2 << (2 * i), 0)
    target = keep + (adapter.to(tl.int64) * rows + row)[:, None] * mask_row + byte[None, :]
    tl.store(target, bits.to(tl.uint8), mask=inside[:, None])


@triton.jit
def _kept(keep, row, tile, rows, mask_row, COLUMNS: tl.constexpr):
    """Whether each element of a tile of columns is kept; a thread that holds eight columns loads one byte."""
    byte = keep + row[:, None] * mask_row + (tile * (COLUMNS // 8) + tl.arange(0, COLUMNS // 8))[None, :]
    bits = tl.load(byte, mask=(row < rows)[:, None], other=0).to(tl.int32)
    bits = (bits[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(bits, (row.shape[0], COLUMNS)) != 0


@kernel(do_not_specialize=["rows", "factor"])
def _down_kernel(
    x, a, keep, out, rows, cols, x_row, out_row, mask_row, factor,
    DROPOUT: tl.constexpr, RANK: tl.constexpr, R: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    adapter = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64) * M + tl.arange(0, M)
    r = tl.arange(0, R)
    a += adapter * RANK * cols
    if DROPOUT:
        keep += adapter.to(tl.int64) * rows * mask_row
    acc = tl.zeros((M, R), tl.float32)
    for tile in range(0, tl.cdiv(cols, COLUMNS)):
        c = tile * COLUMNS + tl.arange(0, COLUMNS)
        inside = (row < rows)[:, None] & (c < cols)[None, :]
        value = tl.load(x + row[:, None] * x_row + c[None, :], mask=inside, other=0.0)
        if DROPOUT:
            value = tl.where(_kept(keep, row, tile, rows, mask_row, COLUMNS), value, 0.0)
        weight = tl.load(a + r[None, :] * cols + c[:, None], mask=(r < RANK)[None, :] & (c < cols)[:, None], other=0.0)
        acc = tl.dot(value, weight, acc, input_precision=PRECISION)
    place = out + row[:, None] * out_row + (adapter * RANK + r)[None, :]
    tl.store(place, (acc * factor).to(out.dtype.element_ty), mask=(row < rows)[:, None] & (r < RANK)[None, :])


@triton.jit
def adapter_part(
    grad, a, keep, row, tile, rows, cols, grad_row, mask_row, factor, ADAPTERS: tl.constexpr, DROPOUT: tl.constexpr,
    RANK: tl.constexpr, R: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of ``tensors.AdapterPart``, float32."""
    c = tile * COLUMNS + tl.arange(0, COLUMNS)
    r = tl.arange(0, R)
    added = tl.zeros((row.shape[0], COLUMNS), tl.float32)
    for adapter in tl.static_range(ADAPTERS):
        place = grad + row[:, None] * grad_row + (adapter * RANK + r)[None, :]
        down = tl.load(place, mask=(row < rows)[:, None] & (r < RANK)[None, :], other=0.0)
        place = a + (adapter * RANK + r)[:, None] * cols + c[None, :]
        weight = tl.load(place, mask=(r < RANK)[:, None] & (c < cols)[None, :], other=0.0)
        part = tl.dot(down, weight, input_precision=PRECISION)
        if DROPOUT:
            keeps = _kept(keep + tl.full((), adapter, tl.int64) * rows * mask_row, row, tile, rows, mask_row, COLUMNS)
            part = tl.where(keeps, part, 0.0)
        added += part
    return added * factor


@kernel(do_not_specialize=["rows", "factor"])
def _input_grad_kernel(
    total, grad, a, keep, rows, cols, total_row, grad_row, mask_row, factor, ADAPTERS: tl.constexpr,
    DROPOUT: tl.constexpr, RANK: tl.constexpr, R: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64) * M + tl.arange(0, M)
    c = tile * COLUMNS + tl.arange(0, COLUMNS)
    added = adapter_part(grad, a, keep, row, tile, rows, cols, grad_row, mask_row, factor,
                         ADAPTERS, DROPOUT, RANK, R, COLUMNS, PRECISION)  # fmt: skip
    inside = (row < rows)[:, None] & (c < cols)[None, :]
    place = total + row[:, None] * total_row + c[None, :]
    value = tl.load(place, mask=inside, other=0.0).to(tl.float32) + added
    tl.store(place, value.to(total.dtype.element_ty), mask=inside)


@kernel(do_not_specialize=["rows", "factor", "share"])
def _weight_grad_kernel(
    x, grad, keep, out, rows, cols, x_row, grad_row, mask_row, factor, share,
    DROPOUT: tl.constexpr, RANK: tl.constexpr, R: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    tile, adapter, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    c = tile * COLUMNS + tl.arange(0, COLUMNS)
    r = tl.arange(0, R)
    if DROPOUT:
        keep += adapter.to(tl.int64) * rows * mask_row
    acc = tl.zeros((COLUMNS, R), tl.float32)  # transposed: the products of a Hopper GPU have 64 rows or more
    for start in range(split * share, tl.minimum((split + 1) * share, rows), M):
        row = (start + tl.arange(0, M)).to(tl.int64)
        inside = (row < rows)[:, None] & (c < cols)[None, :]
        value = tl.load(x + row[:, None] * x_row + c[None, :], mask=inside, other=0.0)
        if DROPOUT:
            value = tl.where(_kept(keep, row, tile, rows, mask_row, COLUMNS), value, 0.0)
        place = grad + row[:, None] * grad_row + (adapter * RANK + r)[None, :]
        down = tl.load(place, mask=(row < rows)[:, None] & (r < RANK)[None, :], other=0.0)
        acc = tl.dot(tl.trans(value), down, acc, input_precision=PRECISION)
    first = (split * tl.num_programs(1) + adapter).to(tl.int64) * RANK
    place = out + (first + r)[None, :] * cols + c[:, None]
    tl.store(place, acc * factor, mask=(r < RANK)[None, :] & (c < cols)[:, None])


def draw(mask: DropoutMask, n: int, rows: int, cols: int) -> Tensor:
    """The bits of the masks of ``n`` consecutive streams, uint8 of shape ``(n, rows, bytes)``."""
    mask_row = triton.cdiv(cols, TILE) * TILE // 8
    rng, token_index = mask.state
    keep = rng.new_empty(n, rows, mask_row, dtype=torch.uint8)
    wide = math.gcd(mask_row, 128)  # bytes of a row that a program draws; it draws 1024
    _keep_kernel[(mask_row // wide * triton.cdiv(rows, 1024 // wide), n)](
        keep, rng, token_index, mask.stream, mask.drops, mask_row, rows,
        INDEXED=token_index is not None, M=1024 // wide, BYTES=wide,
    )  # fmt: skip
    return keep


def down(x: Tensor, a: Tensor, n: int, keep: Tensor | None, factor: float, out: Tensor) -> None:
    """See ``lora_products.down``; the result is written to ``out``."""
    rows, cols = x.shape
    m = min(max(triton.next_power_of_2(triton.cdiv(n * rows, _PROCESSORS)), 16), _MAX_ROWS)
    _down_kernel[(n, triton.cdiv(rows, m))](
        x, a, keep, out, rows, cols, x.stride(0), out.stride(0), mask_width(keep), factor, M=m, **options(a, n, keep, 3)
    )  # fmt: skip


def add_input_grad(total: Tensor, part: AdapterPart) -> None:
    """Adds ``part`` to ``total``."""
    (rows, cols), (grad, a, n, keep, factor) = total.shape, part
    _input_grad_kernel[(triton.cdiv(cols, TILE), triton.cdiv(rows, 32))](
        total, grad, a, keep, rows, cols, total.stride(0), grad.stride(0), mask_width(keep), factor,
        ADAPTERS=n, M=32, **options(a, n, keep, 4),
    )  # fmt: skip


def weight_grad(x: Tensor, grad: Tensor, n: int, keep: Tensor | None, factor: float, out: Tensor) -> None:
    """The gradients of the weights; see ``lora_products.down_backward``.

    The rows are shared out among programs, whose sums are added in a fixed order.
    """
    rows, cols = x.shape
    tiles = triton.cdiv(cols, TILE)
    programs = _PROGRAMS if n > 2 else _PROGRAMS // 2  # as measured; each one's sum is written and read again
    splits = max(1, min(programs // (tiles * n), triton.cdiv(rows, 256)))
    share = triton.cdiv(triton.cdiv(rows, splits), 32) * 32
    sums = x.new_empty(splits, grad.shape[1], cols, dtype=torch.float32)
    _weight_grad_kernel[(tiles, n, splits)](
        x, grad, keep, sums, rows, cols, x.stride(0), grad.stride(0), mask_width(keep), factor, share,
        M=32, **options(grad.t(), n, keep, 4),
    )  # fmt: skip
    torch.sum(sums, 0, out=out)


def options(a: Tensor, n: int, keep: Tensor | None, stages: int) -> dict[str, Any]:
    """Constants of a kernel; ``R`` fills the rank up to what a matrix product takes; float32 stays float32.

    ``stages`` is how many tiles are loaded ahead where shared memory allows it.
    """
    rank = len(a) // n
    return {
        "DROPOUT": keep is not None, "RANK": rank, "R": _filled(rank), "COLUMNS": TILE,
        "PRECISION": "ieee" if a.dtype == torch.float32 else "tf32",
        "num_stages": min(stages, max(shared_memory(a.device) // _stage(rank, a.element_size()), 1)),
    }  # fmt: skip


def takes_rank(rank: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels fit in the shared memory of a GPU."""
    return _stage(rank, dtype.itemsize) <= shared_memory(device)


def _filled(rank: int) -> int:
    return max(int(triton.next_power_of_2(rank)), 16)


def _stage(rank: int, itemsize: int) -> int:
    """Bytes of shared memory for the two tiles of a product."""
    return (_filled(rank) + _MAX_ROWS) * TILE * itemsize


def mask_width(keep: Tensor | None) -> int:
    """Bytes of a row of bits."""
    return 0 if keep is None else keep.shape[2]
