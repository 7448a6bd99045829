"""Matrix products as the engine computes them: on a CPU by oneDNN, and with float8 operands."""

import os

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_cls.engine.tensors import FP8_MAX, Operand

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_CACHED_SHAPES = 128  # a pass through a decoder has some twenty


def limit_caches() -> None:
    """Bounds the memory of oneDNN's code for matrix products. Call it before the first product.

    oneDNN and PyTorch's layer above it each keep code for the last 1,024 shapes, some 0.2 MB a shape. Batches without
    padding hardly ever repeat a shape, so the caches take 500 MiB and save no time. What the user has set stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(_CACHED_SHAPES))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, on a CPU by oneDNN: PyTorch's choice, MKL, is half as fast on processors of other makers."""
    if x.is_cuda or x.dtype != torch.float32 or not _HAS_ONEDNN:
        return F.linear(x, weight, bias)
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # oneDNN computes with a slice a thousand times as slowly
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def product_over_rows(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Writes ``a^T b`` into ``out``, on a GPU without rounding it to fewer bits than ``out`` has.

    On a CPU the smaller side is first, which is three times as fast.
    """
    if not a.is_cuda:
        out.copy_(linear(a.t(), b.t()) if a.shape[1] <= b.shape[1] else linear(b.t(), a.t()).t())
    elif a.dtype == out.dtype:
        torch.mm(a.t(), b, out=out)
    else:
        torch.mm(a.t(), b, out_dtype=out.dtype, out=out)


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight in float8 with a scale per row, and the scales."""
    scale = weight.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / FP8_MAX
    return (weight.float() / scale).to(torch.float8_e4m3fn).contiguous(), scale.t()


def fp8_product(x: Operand, weight: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
    """``F.linear`` with an operand in float8 and a weight that ``quantized`` returned."""
    assert x.fp8 is not None and x.scale is not None
    values, scale = weight
    return torch._scaled_mm(x.fp8, values.t(), x.scale, scale, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True)
