"""A frozen decoder with LoRA adapters as one function: packed texts in, one hidden state per text out.

What is exact and what it saves, against the same layers under autograd:

- Only what the adapters' gradients need is kept and computed: no gradient of frozen weights, none below the first
  adapter, and each element-wise step is one pass (``kernels.py``) instead of several.
- Of the last layer only each text's last token is needed: query, output projection and MLP take ``n`` rows
  instead of all tokens, which for 36 layers is 2 % of all matrix products.
- Layers can be recomputed instead of kept, by number, so that a batch fits whatever memory is free; the second
  pass leaves the down projection out, since nothing needs its output.

The residual stream has the type of the weights, as in ``transformers``; sums and norms are float32 inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_cls.model.fused.attention import Texts, attend, attend_backward
from llm_cls.model.fused.blocks import Block, Blocks
from llm_cls.model.fused.kernels import activate, activate_backward, norm, norm_backward, rotate
from llm_cls.model.fused.projection import Saved, cast_adapters


@dataclass(frozen=True)
class Inputs:
    """A packed batch on the device.

    Attributes:
        input_ids: int64, shape ``(tokens,)``.
        texts: Where its texts lie.
        rng: See ``kernels.Mask``; None: no dropout.
    """

    input_ids: Tensor
    texts: Texts
    rng: Tensor | None


@dataclass
class _Kept:
    """What a layer's backward pass needs; with ``x`` alone the layer is computed again."""

    x: Tensor
    stats: Tensor | None = None
    qkv: Saved | None = None
    attention: Any = None
    out: Saved | None = None
    middle: Tensor | None = None
    middle_stats: Tensor | None = None
    up: Saved | None = None
    hidden: Tensor | None = None
    down: Saved | None = None


@dataclass
class Tape:
    """What ``forward`` leaves for ``backward``."""

    kept: list[_Kept | None]
    final: Tensor
    final_stats: Tensor | None


def forward(blocks: Blocks, inputs: Inputs, save: bool, recomputed: int = 0) -> tuple[Tensor, Tape | None]:
    """The normalised hidden state of each text's last token.

    Args:
        blocks: The network.
        inputs: The batch.
        save: Whether ``backward`` will be called.
        recomputed: How many layers keep nothing but their input.

    Returns:
        ``(pooled, tape)`` with ``pooled`` of shape ``(n, hidden_size)``.
    """
    cast_adapters([adapter for block in blocks.layers for adapter in block.adapters])
    first = first_trained(blocks)
    x: Tensor = blocks.embedding[inputs.input_ids]
    addends: list[Tensor] = []
    kept: list[_Kept | None] = []
    for i, block in enumerate(blocks.layers):
        keep = save and i >= first
        only_last = i == len(blocks.layers) - 1
        x, addends, layer = _forward(blocks, block, x, addends, inputs, only_last, keep)
        if keep and i - first < recomputed:
            layer = _Kept(layer.x)
        kept.append(layer if keep else None)
    final, pooled, stats = norm(x, addends, blocks.norm)
    return pooled, Tape(kept, final, stats) if save else None


def backward(blocks: Blocks, inputs: Inputs, tape: Tape, grad: Tensor) -> list[Tensor]:
    """Gradients of all adapter weights, in the order of ``parameters``.

    Args:
        blocks: The network.
        inputs: The batch, as ``forward`` had it.
        tape: What ``forward`` gave; it is used up.
        grad: With respect to ``pooled``, in the type of the weights.
    """
    gradients: dict[nn.Parameter, Tensor] = {}
    first = first_trained(blocks)
    d: Tensor | None = norm_backward(grad, tape.final, tape.final_stats, blocks.norm, None)
    for i in reversed(range(first, len(blocks.layers))):
        block, kept, only_last = blocks.layers[i], tape.kept[i], i == len(blocks.layers) - 1
        assert kept is not None and d is not None
        if kept.qkv is None:
            kept = _forward(blocks, block, kept.x, [], inputs, only_last, keep=True, again=True)[2]
        tape.kept[i] = None  # its memory is free for the layers below
        d = _backward(blocks, block, kept, d, inputs, only_last, need_input=i > first, gradients=gradients)
    adapters = [adapter for block in blocks.layers for adapter in block.adapters]
    torch._foreach_mul_([gradients[adapter.b] for adapter in adapters], [adapter.scaling for adapter in adapters])
    return [gradients[parameter] for parameter in parameters(blocks)]


def parameters(blocks: Blocks) -> list[nn.Parameter]:
    """The adapters' master weights."""
    return [parameter for block in blocks.layers for adapter in block.adapters for parameter in (adapter.a, adapter.b)]


def first_trained(blocks: Blocks) -> int:
    """The lowest layer with an adapter; the number of layers where none has one."""
    return next((i for i, block in enumerate(blocks.layers) if block.adapters), len(blocks.layers))


def _forward(
    blocks: Blocks,
    block: Block,
    x: Tensor,
    addends: Sequence[Tensor],
    inputs: Inputs,
    only_last: bool,
    keep: bool,
    again: bool = False,
) -> tuple[Tensor, list[Tensor], _Kept]:
    """One layer; its output is the sum of the first two results, which the next norm adds up."""
    texts, rng = inputs.texts, inputs.rng
    x, normed, stats = norm(x, addends, block.norm1)
    kept = _Kept(x, stats)
    qkv, kept.qkv = block.qkv.forward(normed, rng)
    parts = block.split(qkv)
    rotate(parts, parts, texts.positions, blocks.cos, blocks.sin, 1)
    q, k, v = parts
    rest = x
    if only_last:
        q, rest = q[texts.last], x[texts.last]
    attended, kept.attention = attend(q, k, v, texts, block.scaling, only_last, keep)
    out, kept.out = block.out.forward(attended.reshape(len(q), -1), rng)
    kept.middle, normed, kept.middle_stats = norm(rest, [] if block.parallel else [out], block.norm2)
    hidden, kept.up = block.up.forward(normed, rng)
    kept.hidden = hidden
    activated = activate(hidden, block.activation, block.gated)
    if again and not block.down.adapters:
        kept.down = []
        return x, [], kept
    down, kept.down = block.down.forward(activated, rng)
    return kept.middle, [out, down] if block.parallel else [down], kept


def _backward(
    blocks: Blocks,
    block: Block,
    kept: _Kept,
    d: Tensor,
    inputs: Inputs,
    only_last: bool,
    need_input: bool,
    gradients: dict[nn.Parameter, Tensor],
) -> Tensor | None:
    """From the gradient with respect to a layer's output to that of its input."""
    texts, rng = inputs.texts, inputs.rng
    assert kept.middle is not None and kept.hidden is not None
    assert kept.qkv is not None and kept.out is not None and kept.up is not None and kept.down is not None
    grad = block.down.backward(d, kept.down, rng, gradients, True)
    assert grad is not None
    grad = activate_backward(grad, kept.hidden, block.activation, block.gated)
    kept.hidden = None
    grad = block.up.backward(grad, kept.up, rng, gradients, True)
    assert grad is not None
    middle = norm_backward(grad, kept.middle, kept.middle_stats, block.norm2, d)
    # With a parallel MLP both branches start at the layer's input, and attention's output goes to the sum as it is.
    grad = block.out.backward(d if block.parallel else middle, kept.out, rng, gradients, True)
    assert grad is not None
    shape = (len(grad), block.heads, block.head_size)
    dq, dk, dv = attend_backward(kept.attention, grad.view(shape), texts, block.scaling, only_last)
    if only_last:
        dq = dq.new_zeros((len(dk), *shape[1:])).index_copy_(0, texts.last, dq)
    dqkv = _join(blocks, block, dq, dk, dv, texts)
    grad = block.qkv.backward(dqkv, kept.qkv, rng, gradients, need_input)
    if grad is None:
        return None
    if only_last:
        return norm_backward(grad, kept.x, kept.stats, block.norm1, None).index_add_(0, texts.last, middle)
    return norm_backward(grad, kept.x, kept.stats, block.norm1, middle)


def _join(blocks: Blocks, block: Block, dq: Tensor, dk: Tensor, dv: Tensor, texts: Texts) -> Tensor:
    """The gradient with respect to the output of ``block.qkv``, rotated back."""
    joined = torch.empty(len(dk), block.qkv.weight.shape[0], dtype=dk.dtype, device=dk.device)
    rotate((dq, dk, dv), block.split(joined), texts.positions, blocks.cos, blocks.sin, -1)
    return joined
