"""Checks of the attention kernels, as ``kernel_checks.py`` has them of the others."""

from collections.abc import Callable

import torch
from torch import Tensor

from llm_cls.engine.attention import packed_sdpa
from llm_cls.engine.head_norms import rotate_heads_backward
from llm_cls.engine.packing import packed_positions
from llm_cls.engine.spec import AttentionSpec, HeadInputs, RotaryTable, SavedHeads, Scores
from llm_cls.engine.tensors import Norm

from . import kernel_checks as checks

SCORES = [Scores(0.1), Scores(0.1, window=40), Scores(0.1, softcap=0.5), Scores(0.1, 70, 0.5)]


def check_attention(
    device: str, dtype: torch.dtype, heads: int, kv_heads: int, size: int, seq_lens: list[int], scores: Scores
) -> None:
    """Forward, and backward to attention's inputs and on through rotation and norms of query and key."""
    cu_seqlens = packed_positions(seq_lens)[1].int().to(device)
    sizes = [heads, kv_heads, kv_heads]
    joined = checks.normal(sum(seq_lens), sum(sizes), size, dtype=dtype)
    grad = checks.normal(sum(seq_lens), heads, size, dtype=dtype, seed=1)
    exact = [x.requires_grad_() for x in joined.double().split(sizes, 1)]
    expected = packed_sdpa(*exact, seq_lens, scores.scaling, window=scores.window, softcap=scores.softcap)
    parts = joined.to(device).split(sizes, 1)
    output, lse = checks.triton("attention").attend(*parts, cu_seqlens, max(seq_lens), scores)
    checks.check(output, expected.detach(), dtype)
    wanted = torch.autograd.grad(expected, exact, grad.double())

    def found(before: HeadInputs | None) -> tuple[Tensor, ...]:
        target = torch.full_like(joined, float("nan")).to(device).split(sizes, 1)
        arguments = *parts, output, lse, grad.to(device), target, cu_seqlens, max(seq_lens), scores, before
        checks.triton("attention").attend_backward(*arguments)
        return target

    for ours, value in zip(found(None), wanted, strict=True):
        assert checks.error(ours, value) <= 2 * checks.TOLERANCE[dtype]
    for normed in (False, True):
        before, exact_before, position_ids = _before_attention(device, dtype, sizes, size, seq_lens, scores, normed)
        reached = [torch.empty_like(x) for x in wanted]
        rotate_heads_backward(wanted, reached, exact_before, position_ids)
        for ours, value in zip(found(before), reached, strict=True):
            assert checks.error(ours, value) <= 2 * checks.TOLERANCE[dtype]


def _before_attention(
    device: str, dtype: torch.dtype, sizes: list[int], size: int, seq_lens: list[int], scores: Scores, normed: bool
) -> tuple[HeadInputs, HeadInputs, Tensor]:
    """On the device and in float64, with position ids. The table ends before the longest text, as in a CUDA graph.

    Its numbers are no cosines and sines: another sign, place or order of them gives another result. Query and key
    before the norm need not fit those after it, because each kernel reads either.
    """
    length = max(max(seq_lens) - 3, 1)
    cos, sin = (checks.normal(length, size // 2, dtype=torch.float32, seed=2 + i) for i in range(2))
    weights = [1 + 0.3 * checks.normal(size, dtype=dtype, seed=4 + i) for i in range(2)]
    joined = checks.normal(sum(seq_lens), sum(sizes), size, dtype=dtype, seed=6)

    def made(move: Callable[[Tensor], Tensor]) -> HeadInputs:
        norms = [Norm(move(weight), None, 1e-2 * (1 + i), rms=True) for i, weight in enumerate(weights)]
        spec = AttentionSpec(*sizes[:2], size, False, scores, *(norms if normed else ()))
        saved = SavedHeads(*move(joined).split(sizes, 1)[:2]) if normed else None
        return HeadInputs(spec, RotaryTable(move(cos), move(sin)), saved)

    position_ids = packed_positions(seq_lens)[0].clamp(max=length - 1)
    return made(lambda x: x.to(device)), made(torch.Tensor.double), position_ids
