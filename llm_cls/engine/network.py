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

from llm_cls.engine.attention import Texts, attend, attend_backward
from llm_cls.engine.kernels import activate, activate_backward, in_form, norm, norm_backward, rotate
from llm_cls.engine.projection import Saved, cast_adapters
from llm_cls.engine.spec import Block, Blocks
from llm_cls.engine.tensors import PLAIN, Draw, Rows


@dataclass(frozen=True)
class Inputs:
    """A packed batch on the device.

    Attributes:
        input_ids: int64, shape ``(tokens,)``.
        texts: Where its texts lie.
        rng: See ``forms.Draw``; None: no dropout.
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
    offset: Tensor | None = None
    kept: list[_Kept | None] = []
    for i, block in enumerate(blocks.layers):
        keep = save and i >= first
        only_last = i == len(blocks.layers) - 1
        x, addends, layer = _forward(blocks, block, x, addends, offset, inputs, only_last, keep)
        offset = block.output_offset
        if keep and i - first < recomputed:
            layer = _Kept(layer.x)
        kept.append(layer if keep else None)
        del layer  # where nothing is kept, its memory is free for the next one
    normed = norm(x, addends, blocks.norm, offset)
    return normed.rows.tensor, Tape(kept, normed.total, normed.stats) if save else None


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
    d: Rows | None = norm_backward(grad, tape.final, tape.final_stats, blocks.norm, None)
    for i in reversed(range(first, len(blocks.layers))):
        block, kept, only_last = blocks.layers[i], tape.kept[i], i == len(blocks.layers) - 1
        assert kept is not None and d is not None
        if kept.qkv is None:
            kept = _forward(blocks, block, kept.x, [], None, inputs, only_last, keep=True, again=True)[2]
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
    offset: Tensor | None,
    inputs: Inputs,
    only_last: bool,
    keep: bool,
    again: bool = False,
) -> tuple[Tensor, list[Tensor], _Kept]:
    """One layer.

    Returns:
        ``(x, addends, kept)``: the layer's output is the sum of ``x``, ``addends`` and ``block.output_offset``, which
        the next norm adds up.
    """
    texts, (draw, upper_draw) = inputs.texts, _draws(inputs, only_last)
    x, normed, stats = norm(x, addends, block.norm1, offset, block.qkv.form(len(x)))
    kept = _Kept(x, stats)
    qkv, kept.qkv = block.qkv.forward(normed, draw, bias=True)
    parts = block.split(qkv)
    rotate(parts, parts, texts.positions, blocks.cos, blocks.sin, 1)
    q, k, v = parts
    rest = x
    if only_last:
        q, rest = q[texts.last], x[texts.last]
    attended, kept.attention = attend(q, k, v, texts, block.scaling, only_last, keep)
    attended = attended.reshape(len(q), -1)
    out, kept.out = block.out.forward(in_form(attended, block.out.form(len(q))), upper_draw)
    middle = ([], None) if block.parallel else ([out], block.out.offset)
    kept.middle, normed, kept.middle_stats = norm(rest, middle[0], block.norm2, middle[1], block.up.form(len(q)))
    kept.hidden, kept.up = block.up.forward(normed, upper_draw)
    if again and not block.down.adapters:  # nothing needs the layer's output
        kept.down = []
        return x, [], kept
    form = block.down.form(len(q))
    activated = activate(kept.hidden, block.activation, block.gated, block.up.offset, form)
    down, kept.down = block.down.forward(activated, upper_draw)
    return kept.middle, [out, down] if block.parallel else [down], kept


def _draws(inputs: Inputs, only_last: bool) -> tuple[Draw | None, Draw | None]:
    """From what a layer draws its masks: before attention, and after it, where a row may be a text's last token."""
    if inputs.rng is None:
        return None, None
    draw = Draw(inputs.rng)
    return draw, Draw(inputs.rng, inputs.texts.last) if only_last else draw


def _backward(
    blocks: Blocks,
    block: Block,
    kept: _Kept,
    d: Rows,
    inputs: Inputs,
    only_last: bool,
    need_input: bool,
    gradients: dict[nn.Parameter, Tensor],
) -> Rows | None:
    """From the gradient with respect to a layer's output to that of its input."""
    texts, (draw, upper_draw) = inputs.texts, _draws(inputs, only_last)
    assert kept.middle is not None and kept.hidden is not None
    assert kept.qkv is not None and kept.out is not None and kept.up is not None and kept.down is not None
    rows = len(kept.middle)
    grad = block.down.backward(d, kept.down, upper_draw, gradients, True)
    assert grad is not None
    form = block.up.form(rows)
    hidden = activate_backward(grad, kept.hidden, block.activation, block.gated, block.up.offset, form)
    kept.hidden = None
    grad = block.up.backward(hidden, kept.up, upper_draw, gradients, True)
    assert grad is not None
    del hidden
    form = PLAIN if block.parallel else block.out.form(rows)
    middle = norm_backward(grad, kept.middle, kept.middle_stats, block.norm2, d.plain, form)
    # With a parallel MLP both branches start at the layer's input, and attention's output goes to the sum as it is.
    grad = block.out.backward(d if block.parallel else middle, kept.out, upper_draw, gradients, True)
    assert grad is not None
    shape = (len(grad), block.heads, block.head_size)
    joined = grad.new_empty(len(kept.x), block.qkv.weight.shape[0])
    target = block.split(joined)
    source = attend_backward(kept.attention, grad.view(shape), texts, block.scaling, only_last, target)
    if only_last:
        dq = source[0].new_zeros(target[0].shape).index_copy_(0, texts.last, source[0])
        source = (dq, *source[1:])
    rotate(source, target, texts.positions, blocks.cos, blocks.sin, -1)
    dqkv = in_form(joined, block.qkv.form(len(joined)))
    grad = block.qkv.backward(dqkv, kept.qkv, draw, gradients, need_input)
    if grad is None:
        return None
    form = block.down.form(len(grad))
    if only_last:
        total = norm_backward(grad, kept.x, kept.stats, block.norm1, None, PLAIN).tensor
        return in_form(total.index_add_(0, texts.last, middle.tensor), form)
    return norm_backward(grad, kept.x, kept.stats, block.norm1, middle.plain, form)
