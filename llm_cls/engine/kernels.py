"""The element-wise arithmetic of a decoder layer, forward and backward: Triton on a GPU, PyTorch elsewhere.

Each function is one pass over its tensors in device memory, computed in float32 inside and rounded once at the end. The
PyTorch code is the definition; the kernels in ``triton/`` are tested against it.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_cls.engine.tensors import FP8_MAX, UNQUANTIZED, AdapterPart, Norm, NormOutput, Operand, OperandFormat, Stream

ACTIVATIONS = {  # the name in transformers: the name here
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
}


def uses_triton(x: Tensor) -> bool:
    """Whether the Triton kernels compute on ``x``; a test replaces it to run the whole network by the interpreter."""
    return x.is_cuda


def triton(name: str) -> Any:
    """A module of kernels; imported late, because only torch's CUDA build brings Triton."""
    return import_module(f"llm_cls.engine.triton.{name}")


def unusable_reason(device: torch.device) -> str:
    """Why the kernels of a device cannot be started; empty if they can, or if it needs none."""
    if device.type != "cuda":
        return ""
    if find_spec("triton") is None:
        return "Triton is not installed"
    reason: str = triton("launch").unusable_reason()
    return reason


def takes_rank(rank: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether adapters of a rank can be computed: the kernels of a GPU need shared memory for them."""
    return device.type != "cuda" or bool(triton("lora").takes_rank(rank, dtype, device))


def compile_together(run: Callable[[], object]) -> None:
    """Compiles the Triton kernels that ``run`` starts side by side; none of them computes."""
    triton("launch").compile_together(run)


def norm(
    stream: Stream,
    parameters: Norm,
    out_format: OperandFormat = UNQUANTIZED,
    second: tuple[Norm, OperandFormat] | None = None,
) -> NormOutput:
    """The sum of the residual stream, and its norm, or two.

    Args:
        stream: The terms of the sum.
        parameters: Of the norm.
        out_format: Of the norm; the sum is not quantized. The sum is ``stream.x`` itself where nothing is added.
        second: Parameters and format of another norm of the same sum, of the same kind and with the same ``eps``.
    """
    assert second is None or second[0].eps == parameters.eps
    x, addends, bias, post_norm = stream
    if uses_triton(x):
        found: NormOutput = triton("norm").norm(stream, parameters, out_format, second)
        return found
    if post_norm is not None:
        addends = [norm(Stream(addend), post_norm).normed.tensor for addend in addends]
    for addend in (*addends, *([] if bias is None else [bias])):
        x = x + addend
    if parameters.rms:
        wide = _wide(x)
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + parameters.eps)
        out = (normed * _wide(parameters.weight)).to(x.dtype)
    else:
        out = F.layer_norm(x, x.shape[-1:], parameters.weight, parameters.bias, parameters.eps)
    return NormOutput(x, _operand(out, out_format), None if second is None else norm(Stream(x), *second).normed)


def norm_backward(
    grad: Tensor,
    x: Tensor,
    parameters: Norm,
    residual: Tensor | None,
    out_format: OperandFormat = UNQUANTIZED,
    second: tuple[Tensor, Norm] | None = None,
) -> Operand:
    """Gradient with respect to the input of a norm, or of two, plus ``residual``.

    Args:
        grad: With respect to the output, shape ``(tokens, hidden_size)``.
        x: The input: the sum that ``norm`` returned.
        parameters: Of the norm.
        residual: The gradient that reaches the input through the residual connection, shape of ``x``, or None.
        out_format: Of the result, which always has its values in the dtype of the weights, too.
        second: The gradient with respect to the second output of ``norm``, and the parameters.
    """
    if uses_triton(x):
        found: Operand = triton("norm").norm_backward(grad, x, parameters, residual, out_format, second)
        return found
    if second is not None:
        residual = norm_backward(second[0], x, second[1], residual).tensor
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
    return _operand(result if residual is None else result.add_(residual), out_format)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def activate(
    x: Tensor,
    activation: str,
    gated: bool,
    pending_bias: Tensor | None = None,
    out_format: OperandFormat = UNQUANTIZED,
) -> Operand:
    """The non-linearity of the MLP.

    Args:
        x: Shape ``(tokens, n)``; gated: ``(tokens, 2 n)``, gate and value.
        activation: A value of ``ACTIVATIONS``.
        gated: Whether the activated gate multiplies the value.
        pending_bias: A bias that ``x`` still lacks.
        out_format: Of the result.

    Returns:
        Shape ``(tokens, n)``.
    """
    if uses_triton(x):
        found: Operand = triton("activation").activate(x, activation, gated, pending_bias, out_format)
        return found
    if pending_bias is not None:
        x = x + pending_bias
    if gated:
        gate, value = x.chunk(2, -1)
        return _operand(_activation(gate, activation).mul_(value), out_format)
    return _operand(_activation(x, activation), out_format)


def activate_backward(
    grad: Tensor,
    x: Tensor,
    activation: str,
    gated: bool,
    pending_bias: Tensor | None = None,
    out_format: OperandFormat = UNQUANTIZED,
    part: AdapterPart | None = None,
) -> Operand:
    """Gradient with respect to the input of ``activate``; may overwrite ``grad``, which still lacks ``part``."""
    if uses_triton(x):
        backward = triton("activation").activate_backward
        found: Operand = backward(grad, x, activation, gated, pending_bias, out_format, part)
        return found
    assert part is None, "it is computed with the rest of the gradient"
    if pending_bias is not None:
        x = x + pending_bias
    if not gated:
        return _operand(_activation_backward(grad, x, activation), out_format)
    gate, value = x.chunk(2, -1)
    parts = [_activation_backward(grad * value, gate, activation), grad * _activation(gate, activation)]
    return _operand(torch.cat(parts, -1), out_format)


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
    source: Sequence[Tensor], target: Sequence[Tensor], position_ids: Tensor, cos: Tensor, sin: Tensor, sign: int
) -> None:
    """Rotary position embedding of query and key (Su et al., 2021); the backward pass rotates the other way.

    Args:
        source: Query, key and value, each of shape ``(tokens, heads, head_size)``, of any strides.
        target: Where the results go; ``source`` itself to rotate in place. The value is copied.
        position_ids: int32, shape ``(tokens,)``.
        cos: float32, shape ``(max_length, rotary_size / 2)``.
        sin: The same.
        sign: 1 or, backward, -1.
    """
    if uses_triton(source[0]):
        triton("rotary").rotate(source, target, position_ids, cos, sin, sign)
        return
    half = cos.shape[1]
    c, s = (table[position_ids][:, None].to(source[0].dtype) for table in (cos, sin))
    for x, out in zip(source[:2], target[:2], strict=True):
        first, second = x[..., :half], x[..., half : 2 * half]
        crossed = first * s  # before ``out``, which may be ``x``, is written
        torch.mul(first, c, out=out[..., :half]).addcmul_(second, s, value=-sign)
        torch.mul(second, c, out=out[..., half : 2 * half]).add_(crossed, alpha=sign)
    if source is not target:
        for x, out in zip(source[:2], target[:2], strict=True):
            out[..., 2 * half :] = x[..., 2 * half :]
        target[2].copy_(source[2])


def as_operand(x: Tensor, out_format: OperandFormat) -> Operand:
    """``x`` in the requested formats."""
    if out_format.fp8 and uses_triton(x):
        found: Operand = triton("norm").quantize(x)
        return found
    return _operand(x, out_format)


def _operand(x: Tensor, out_format: OperandFormat) -> Operand:
    if not out_format.fp8:
        return Operand(x)
    scale = x.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / FP8_MAX
    return Operand(x, (x.float() / scale).to(torch.float8_e4m3fn), scale)
