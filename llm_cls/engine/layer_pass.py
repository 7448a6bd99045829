"""One layer of the fused decoder, forward and backward; ``network.py`` runs them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from llm_cls.engine.attention import SavedAttention, attend, attend_backward
from llm_cls.engine.head_norms import SavedHeads, rotate_heads, rotate_heads_backward
from llm_cls.engine.kernels import activate, activate_backward, as_operand, norm, norm_backward
from llm_cls.engine.layers import Layer
from llm_cls.engine.lora import AdapterGradients
from llm_cls.engine.packing import PackedLayout
from llm_cls.engine.projection import SavedAdapters
from llm_cls.engine.tensors import UNQUANTIZED, DropoutState, Norm, Operand, OperandFormat, RowState


@dataclass(frozen=True)
class PackedInputs:
    """A packed batch on the device.

    Attributes:
        input_ids: int64, shape ``(tokens,)``.
        layout: Where its texts lie.
        rng: See ``tensors.DropoutState``; None: no dropout.
    """

    input_ids: Tensor
    layout: PackedLayout
    rng: Tensor | None

    def dropout_states(self, only_last: bool) -> tuple[RowState, RowState]:
        """Of a layer before and after attention; after it, a row of the last layer is a text's last token."""
        if self.rng is None:
            return None, None
        state = DropoutState(self.rng)
        return state, DropoutState(self.rng, self.layout.last_tokens) if only_last else state


class SavedNorm(NamedTuple):
    """Input and statistics of a norm, for its backward pass."""

    x: Tensor
    stats: Tensor | None


@dataclass
class SavedLayer:
    """Tensors for a layer's backward pass; a layer that is recomputed has only ``x``.

    Attributes:
        x: The layer's input.
        stats: Of the norm before attention.
        qkv: Of the projection to query, key and value.
        attention: Of attention.
        out: Of the projection after attention.
        mlp_x: The input of the norm before the MLP.
        mlp_stats: Of the norm before the MLP.
        up: Of the projection into the MLP.
        hidden: The input of the MLP's activation.
        down: Of the projection out of the MLP.
        heads: Of the norms of query and key.
        attention_post: Of the norm after attention.
        mlp_post: Of the norm after the MLP.
    """

    x: Tensor
    stats: Tensor | None = None
    qkv: SavedAdapters = None
    attention: SavedAttention | None = None
    out: SavedAdapters = None
    mlp_x: Tensor | None = None
    mlp_stats: Tensor | None = None
    up: SavedAdapters = None
    hidden: Tensor | None = None
    down: SavedAdapters = None
    heads: SavedHeads | None = None
    attention_post: SavedNorm | None = None
    mlp_post: SavedNorm | None = None


def layer_forward(
    layer: Layer,
    x: Tensor,
    addends: Sequence[Tensor],
    pending_bias: Tensor | None,
    inputs: PackedInputs,
    only_last: bool,
    save: bool,
    recompute: bool = False,
) -> tuple[Tensor, list[Tensor], SavedLayer]:
    """One layer.

    Returns:
        ``(x, addends, saved)``: the layer's output is the sum of ``x``, ``addends`` and ``layer.pending_bias``, which
        the next norm adds up.
    """
    spec, layout, (dropout_state, mlp_dropout_state) = layer.spec, inputs.layout, inputs.dropout_states(only_last)
    x, normed, stats = norm(x, addends, spec.attention_norm, pending_bias, layer.qkv.operand_format(len(x)))
    saved = SavedLayer(x, stats)
    qkv, saved.qkv = layer.qkv.forward(normed, dropout_state, add_bias=True)
    (q, k, v), saved.heads = rotate_heads(qkv, spec.attention, layout.position_ids, spec.rotary, save)
    residual = x
    if only_last:
        q, residual = q[layout.last_tokens], x[layout.last_tokens]
    out_format = layer.out.operand_format(len(q))
    attended, saved.attention = attend(
        q, k, v, layout, spec.attention.scores, only_last, save, out_format.extra_columns
    )
    attended = attended.flatten(1)
    out, saved.out = layer.out.forward(as_operand(attended, out_format), mlp_dropout_state)
    out, bias, saved.attention_post = _addend(out, layer.out.pending_bias, spec.attention_post_norm)
    branches, bias = ([], None) if spec.parallel_residual else ([out], bias)
    saved.mlp_x, normed, saved.mlp_stats = norm(
        residual, branches, spec.mlp_norm, bias, layer.up.operand_format(len(q))
    )
    saved.hidden, saved.up = layer.up.forward(normed, mlp_dropout_state)
    if recompute and not layer.down.adapters and spec.mlp_post_norm is None:  # nothing needs the layer's output
        return x, [], saved
    out_format = layer.down.operand_format(len(q))
    activated = activate(saved.hidden, layer.activation, spec.gated, layer.up.pending_bias, out_format)
    down, saved.down = layer.down.forward(activated, mlp_dropout_state)
    down, _, saved.mlp_post = _addend(down, layer.down.pending_bias, spec.mlp_post_norm)
    return saved.mlp_x, [out, down] if spec.parallel_residual else [down], saved


def layer_backward(
    layer: Layer,
    saved: SavedLayer,
    d: Operand,
    inputs: PackedInputs,
    only_last: bool,
    need_input: bool,
    gradients: AdapterGradients,
) -> Operand | None:
    """From ``d``, the gradient with respect to a layer's output, to that with respect to its input."""
    spec, layout, (dropout_state, mlp_dropout_state) = layer.spec, inputs.layout, inputs.dropout_states(only_last)
    assert saved.mlp_x is not None and saved.hidden is not None and saved.attention is not None
    rows = len(saved.mlp_x)
    d_down = _addend_backward(d, saved.mlp_post, spec.mlp_post_norm, layer.down.operand_format(rows))
    grad = layer.down.backward(d_down, saved.down, mlp_dropout_state, gradients, True)
    assert grad is not None
    out_format = layer.up.operand_format(rows)
    hidden = activate_backward(grad, saved.hidden, layer.activation, spec.gated, layer.up.pending_bias, out_format)
    saved.hidden = None
    grad = layer.up.backward(hidden, saved.up, mlp_dropout_state, gradients, True)
    assert grad is not None
    del hidden
    del d_down
    out_format = layer.out.operand_format(rows)
    if spec.parallel_residual or spec.attention_post_norm is not None:
        out_format = UNQUANTIZED
    d_mlp = norm_backward(grad, saved.mlp_x, saved.mlp_stats, spec.mlp_norm, d.values, out_format)
    # With a parallel residual both branches start at the layer's input, and attention's output is an addend of the sum.
    d_out = d if spec.parallel_residual else d_mlp
    d_out = _addend_backward(d_out, saved.attention_post, spec.attention_post_norm, layer.out.operand_format(rows))
    grad = layer.out.backward(d_out, saved.out, mlp_dropout_state, gradients, True)
    assert grad is not None
    shape = (len(grad), spec.attention.heads, spec.attention.head_size)
    joined = grad.new_empty(len(saved.x), layer.qkv.weight.shape[0])
    target = spec.attention.split(joined)
    source = attend_backward(saved.attention, grad.view(shape), layout, spec.attention.scores, only_last, target)
    if only_last:
        dq = source[0].new_zeros(target[0].shape).index_copy_(0, layout.last_tokens, source[0])
        source = (dq, *source[1:])
    rotate_heads_backward(source, target, saved.heads, spec.attention, layout.position_ids, spec.rotary)
    d_qkv = as_operand(joined, layer.qkv.operand_format(len(joined)))
    grad = layer.qkv.backward(d_qkv, saved.qkv, dropout_state, gradients, need_input)
    if grad is None:
        return None
    out_format = layer.down.operand_format(len(grad)) if spec.mlp_post_norm is None else UNQUANTIZED
    if only_last:
        total = norm_backward(grad, saved.x, saved.stats, spec.attention_norm, None).tensor
        return as_operand(total.index_add_(0, layout.last_tokens, d_mlp.tensor), out_format)
    return norm_backward(grad, saved.x, saved.stats, spec.attention_norm, d_mlp.values, out_format)


def _addend(
    branch: Tensor, bias: Tensor | None, post_norm: Norm | None
) -> tuple[Tensor, Tensor | None, SavedNorm | None]:
    """What a branch adds to the residual stream, the bias that it still lacks, and what the backward pass needs."""
    if post_norm is None:
        return branch, bias, None
    total, normed, stats = norm(branch, [], post_norm, bias)
    return normed.tensor, None, SavedNorm(total, stats)


def _addend_backward(d: Operand, saved: SavedNorm | None, post_norm: Norm | None, out_format: OperandFormat) -> Operand:
    """From the gradient of the residual stream to that of a branch."""
    if saved is None or post_norm is None:
        return d
    return norm_backward(d.tensor, saved.x, saved.stats, post_norm, None, out_format)
