"""The element-wise arithmetic of a decoder layer, forward and backward: Triton on a GPU, PyTorch elsewhere.

Each function is one pass over its tensors in device memory, computed in float32 inside and rounded once at
the end. The PyTorch side is the definition; ``triton_kernels.py`` is tested against it.

Dropout draws its mask from a counter, not from a stream: on a GPU the mask of a token depends on the seed, the
adapter and the token's place in the optimizer step, so forward and backward draw the same mask without
keeping it, and neither packing nor micro batches change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
}


@dataclass(frozen=True)
class Norm:
    """A layer norm, or with ``rms`` a root-mean-square norm; frozen.

    Attributes:
        weight: Shape ``(hidden_size,)``.
        bias: The same, or None.
        eps: Added to the variance.
        rms: Whether the mean is left in.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool

    @classmethod
    def of(cls, module: nn.Module) -> "Norm":
        """What a norm layer of ``transformers`` computes."""
        layer: Any = module
        if isinstance(layer, nn.LayerNorm):
            return cls(layer.weight.detach(), layer.bias.detach(), layer.eps, rms=False)
        return cls(layer.weight.detach(), None, layer.variance_epsilon, rms=True)


@dataclass(frozen=True)
class Mask:
    """Which elements dropout keeps.

    Attributes:
        p: Probability of dropping.
        rng: int64 ``[seed, first_token]`` on the device: of the step, and where in it the batch begins.
        stream: Number of the adapter in the network.
    """

    p: float
    rng: Tensor
    stream: int


def _triton() -> Any:
    from llm_cls.model.fused import triton_kernels  # Triton comes with torch's CUDA build alone

    return triton_kernels


def norm(x: Tensor, addends: Sequence[Tensor], parameters: Norm) -> tuple[Tensor, Tensor, Tensor | None]:
    """The sum of ``x`` and ``addends``, and its norm.

    Args:
        x: Shape ``(tokens, hidden_size)``.
        addends: None, one or two of the same shape.
        parameters: Of the norm.

    Returns:
        ``(sum, normalised, stats)``; the sum is ``x`` itself where there is nothing to add, and ``stats`` is for
        ``norm_backward``.
    """
    if x.is_cuda:
        found: tuple[Tensor, Tensor, Tensor] = _triton().norm(x, addends, parameters)
        return found
    for addend in addends:
        x = x + addend
    if parameters.rms:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + parameters.eps)
        return x, x * scale * parameters.weight, None
    return x, F.layer_norm(x, x.shape[-1:], parameters.weight, parameters.bias, parameters.eps), None


def norm_backward(
    grad: Tensor, x: Tensor, stats: Tensor | None, parameters: Norm, residual: Tensor | None
) -> Tensor:
    """Gradient with respect to the input of a norm, plus ``residual``, what reaches that input past the norm.

    Args:
        grad: With respect to the output, shape ``(tokens, hidden_size)``.
        x: The input: the sum that ``norm`` returned.
        stats: Likewise.
        parameters: Of the norm.
        residual: Shape of ``x``, or None.
    """
    if x.is_cuda:
        result: Tensor = _triton().norm_backward(grad, x, stats, parameters, residual)
        return result
    if parameters.rms:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + parameters.eps)
        weighted, normed = grad * parameters.weight, x * scale
        result = scale * (weighted - normed * (weighted * normed).mean(-1, keepdim=True))
    else:
        shape = list(x.shape[-1:])
        _, mean, rstd = torch.native_layer_norm(x, shape, parameters.weight, parameters.bias, parameters.eps)
        result = torch.ops.aten.native_layer_norm_backward(
            grad, x, shape, mean, rstd, parameters.weight, parameters.bias, [True, False, False]
        )[0]
    return result if residual is None else result.add_(residual)


def activate(x: Tensor, activation: str, gated: bool) -> Tensor:
    """The non-linearity of the MLP.

    Args:
        x: Shape ``(tokens, n)``; gated: ``(tokens, 2 n)``, gate and value.
        activation: A value of ``ACTIVATIONS``.
        gated: Whether the activated gate multiplies the value.

    Returns:
        Shape ``(tokens, n)``.
    """
    if x.is_cuda:
        return _triton().activate(x, activation, gated)
    if gated:
        gate, value = x.chunk(2, -1)
        return _activation(gate, activation).mul_(value)
    return _activation(x, activation)


def activate_backward(grad: Tensor, x: Tensor, activation: str, gated: bool) -> Tensor:
    """Gradient with respect to the input of ``activate``; takes ``grad`` apart where that saves memory."""
    if x.is_cuda:
        return _triton().activate_backward(grad, x, activation, gated)
    if gated:
        gate, value = x.chunk(2, -1)
        return torch.cat(
            [_activation_backward(grad * value, gate, activation), grad * _activation(gate, activation)], -1
        )
    return _activation_backward(grad, x, activation)


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
        _triton().rotate(source, target, positions, cos, sin, sign)
        return
    half = cos.shape[1]
    c, s = (table[positions][:, None].to(source[0].dtype) for table in (cos, sin))
    for x, out in zip(source[:2], target[:2], strict=True):
        first, second = x[..., :half], x[..., half : 2 * half]
        turned = first * c - sign * second * s, second * c + sign * first * s
        out[..., :half], out[..., half : 2 * half] = turned
    if source is not target:
        for x, out in zip(source[:2], target[:2], strict=True):
            out[..., 2 * half :] = x[..., 2 * half :]
        target[2].copy_(source[2])


def dropout(x: Tensor, mask: Mask) -> Tensor:
    """``x`` with the elements that ``mask`` drops at 0 and the others divided by ``1 - p``."""
    if x.is_cuda:
        return _triton().dropout(x, None, mask)
    return x * _kept(x, mask)


def add_dropout(total: Tensor, x: Tensor, mask: Mask) -> None:
    """Adds ``dropout(x, mask)`` to ``total``."""
    if x.is_cuda:
        _triton().dropout(x, total, mask)
    else:
        total.addcmul_(x, _kept(x, mask))


def _kept(x: Tensor, mask: Mask) -> Tensor:
    seed, first_token = mask.rng.tolist()
    generator = torch.Generator().manual_seed((seed * 1_000_003 + first_token) * 4099 + mask.stream)
    return torch.empty_like(x).bernoulli_(1 - mask.p, generator=generator).div_(1 - mask.p)
