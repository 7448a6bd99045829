"""The element-wise arithmetic of a decoder layer, forward and backward: Triton on a GPU, PyTorch elsewhere.

Each function is one pass over its tensors in device memory, computed in float32 inside and rounded once at
the end. The PyTorch side is the definition; the kernels in ``triton_*.py`` are tested against it.

Dropout draws its mask from a counter, not from a stream: on a GPU the mask of a token depends on the seed, the
adapter and the token's place in the optimizer step, so forward and backward draw the same mask without
keeping it, and neither packing nor micro batches change it.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_cls.engine.tensors import FP8_MAX, PLAIN, Form, Mask, Norm, Normed, Rows

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
}


def _triton(name: str) -> Any:
    """A module of kernels; imported late, because Triton comes with torch's CUDA build alone."""
    return import_module(f"llm_cls.engine.triton.{name}")


def norm(
    x: Tensor, addends: Sequence[Tensor], parameters: Norm, offset: Tensor | None = None, form: Form = PLAIN
) -> Normed:
    """The sum of ``x``, ``addends`` and ``offset``, and its norm.

    Args:
        x: Shape ``(tokens, hidden_size)``.
        addends: Up to two of the same shape.
        parameters: Of the norm.
        offset: Shape ``(hidden_size,)``: biases that the addends still lack.
        form: Of the norm; the sum is plain. It is ``x`` itself where there is nothing to add.
    """
    if x.is_cuda:
        found: Normed = _triton("norm").norm(x, addends, parameters, offset, form)
        return found
    for addend in (*addends, *([] if offset is None else [offset])):
        x = x + addend
    if parameters.rms:
        wide = _wide(x)
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + parameters.eps)
        out = (normed * _wide(parameters.weight)).to(x.dtype)
    else:
        out = F.layer_norm(x, x.shape[-1:], parameters.weight, parameters.bias, parameters.eps)
    return Normed(x, _rows(out, form), None)


def norm_backward(
    grad: Tensor, x: Tensor, stats: Tensor | None, parameters: Norm, residual: Tensor | None, form: Form = PLAIN
) -> Rows:
    """Gradient with respect to the input of a norm, plus ``residual``, what reaches that input past the norm.

    Args:
        grad: With respect to the output, shape ``(tokens, hidden_size)``.
        x: The input: the sum that ``norm`` returned.
        stats: Likewise.
        parameters: Of the norm.
        residual: Shape of ``x``, or None.
        form: Of the result; it is plain in any case.
    """
    if x.is_cuda:
        found: Rows = _triton("norm").norm_backward(grad, x, stats, parameters, residual, form)
        return found
    if parameters.rms:
        wide = _wide(x)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + parameters.eps)
        weighted, normed = _wide(grad) * _wide(parameters.weight), wide * scale
        result = (scale * (weighted - normed * (weighted * normed).mean(-1, keepdim=True))).to(x.dtype)
    else:
        shape = list(x.shape[-1:])
        _, mean, rstd = torch.native_layer_norm(x, shape, parameters.weight, parameters.bias, parameters.eps)
        result = torch.ops.aten.native_layer_norm_backward(
            grad, x, shape, mean, rstd, parameters.weight, parameters.bias, [True, False, False]
        )[0]
    return _rows(result if residual is None else result.add_(residual), form)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def activate(x: Tensor, activation: str, gated: bool, offset: Tensor | None = None, form: Form = PLAIN) -> Rows:
    """The non-linearity of the MLP.

    Args:
        x: Shape ``(tokens, n)``; gated: ``(tokens, 2 n)``, gate and value.
        activation: A value of ``ACTIVATIONS``.
        gated: Whether the activated gate multiplies the value.
        offset: A bias that ``x`` still lacks.
        form: Of the result.

    Returns:
        Shape ``(tokens, n)``.
    """
    if x.is_cuda:
        found: Rows = _triton("activation").activate(x, activation, gated, offset, form)
        return found
    if offset is not None:
        x = x + offset
    if gated:
        gate, value = x.chunk(2, -1)
        return _rows(_activation(gate, activation).mul_(value), form)
    return _rows(_activation(x, activation), form)


def activate_backward(
    grad: Tensor, x: Tensor, activation: str, gated: bool, offset: Tensor | None = None, form: Form = PLAIN
) -> Rows:
    """Gradient with respect to the input of ``activate``; may overwrite ``grad``."""
    if x.is_cuda:
        found: Rows = _triton("activation").activate_backward(grad, x, activation, gated, offset, form)
        return found
    if offset is not None:
        x = x + offset
    if not gated:
        return _rows(_activation_backward(grad, x, activation), form)
    gate, value = x.chunk(2, -1)
    parts = [_activation_backward(grad * value, gate, activation), grad * _activation(gate, activation)]
    return _rows(torch.cat(parts, -1), form)


def _activation(x: Tensor, activation: str) -> Tensor:
    if activation == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def _activation_backward(grad: Tensor, x: Tensor, activation: str) -> Tensor:
    if activation == "silu":
        result: Tensor = torch.ops.aten.silu_backward(grad, x)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        result = torch.ops.aten.gelu_backward(grad, x, approximate=approximate)
    return result


def rotate(
    source: Sequence[Tensor], target: Sequence[Tensor], positions: Tensor, cos: Tensor, sin: Tensor, sign: int
) -> None:
    """Rotary position embedding of query and key (Su et al., 2021); the backward pass turns the other way.

    Args:
        source: Query, key and value, each of shape ``(tokens, heads, head_size)``, of any strides.
        target: Where they go; ``source`` itself to turn in place. The value is copied.
        positions: int32, shape ``(tokens,)``.
        cos: float32, shape ``(max_length, rotary_size / 2)``.
        sin: The same.
        sign: 1 or, backward, -1.
    """
    if source[0].is_cuda:
        _triton("rotary").rotate(source, target, positions, cos, sin, sign)
        return
    half = cos.shape[1]
    c, s = (table[positions][:, None].to(source[0].dtype) for table in (cos, sin))
    for x, out in zip(source[:2], target[:2], strict=True):
        first, second = x[..., :half], x[..., half : 2 * half]
        crossed = first * s  # before ``out``, which may be ``x``, is written
        torch.mul(first, c, out=out[..., :half]).addcmul_(second, s, value=-sign)
        torch.mul(second, c, out=out[..., half : 2 * half]).add_(crossed, alpha=sign)
    if source is not target:
        for x, out in zip(source[:2], target[:2], strict=True):
            out[..., 2 * half :] = x[..., 2 * half :]
        target[2].copy_(source[2])


def dropout(x: Tensor, mask: Mask) -> Tensor:
    """``x`` with the elements that ``mask`` drops at 0 and the others divided by ``1 - p``."""
    if x.is_cuda:
        found: Tensor = _triton("dropout").dropout(x, None, mask)
        return found
    return x * _kept(x, mask)


def add_dropout(total: Tensor, x: Tensor, mask: Mask) -> None:
    """Adds ``dropout(x, mask)`` to ``total``."""
    if x.is_cuda:
        _triton("dropout").dropout(x, total, mask)
    else:
        total.addcmul_(x, _kept(x, mask))


def _kept(x: Tensor, mask: Mask) -> Tensor:
    """What ``x`` is multiplied by. Sixteen bits decide on an element: several times as fast as ``bernoulli_``."""
    seed, first_token = mask.draw.rng.tolist()
    generator = torch.Generator().manual_seed((seed * 1_000_003 + first_token) * 4099 + mask.stream)
    drops = round(mask.p * 65536)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= drops - 32768
    return kept.to(x.dtype).mul_(65536 / (65536 - drops))


def in_form(x: Tensor, form: Form) -> Rows:
    """``x`` in the forms that are asked for."""
    if form.fp8 and x.is_cuda:
        found: Rows = _triton("norm").quantize(x)
        return found
    return _rows(x, form)


def _rows(x: Tensor, form: Form) -> Rows:
    if not form.fp8:
        return Rows(x)
    scale = x.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / FP8_MAX
    return Rows(x, (x.float() / scale).to(torch.float8_e4m3fn), scale)
