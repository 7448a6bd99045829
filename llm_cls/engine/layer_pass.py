"""One layer of the fused decoder, forward and backward; ``network.py`` runs them all."""

from dataclasses import dataclass

from torch import Tensor

from llm_cls.engine.attention import SavedAttention, attend, attend_backward, reaches_projection
from llm_cls.engine.head_norms import rotate_heads, rotate_heads_backward
from llm_cls.engine.kernels import activate, activate_backward, as_operand, norm, norm_backward
from llm_cls.engine.layers import Layer
from llm_cls.engine.lora import AdapterGradients
from llm_cls.engine.lora_products import whole
from llm_cls.engine.packing import PackedLayout
from llm_cls.engine.projection import SavedAdapters
from llm_cls.engine.spec import HeadInputs, SavedHeads
from llm_cls.engine.tensors import UNQUANTIZED, DropoutState, Norm, Operand, OperandFormat, RowState, Stream


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


@dataclass
class SavedLayer:
    """Tensors for a layer's backward pass; a layer that is recomputed has only ``x``.

    Attributes:
        x: The layer's input.
        qkv: Of the projection to query, key and value.
        attention: Of attention.
        out: Of the projection after attention.
        mlp_x: The input of the norm before the MLP.
        up: Of the projection into the MLP.
        hidden: The input of the MLP's activation.
        down: Of the projection out of the MLP.
        heads: Of the norms of query and key.
        attention_post: The input of the norm after attention.
        mlp_post: The input of the norm after the MLP.
    """

    x: Tensor
    qkv: SavedAdapters = None
    attention: SavedAttention | None = None
    out: SavedAdapters = None
    mlp_x: Tensor | None = None
    up: SavedAdapters = None
    hidden: Tensor | None = None
    down: SavedAdapters = None
    heads: SavedHeads | None = None
    attention_post: Tensor | None = None
    mlp_post: Tensor | None = None


def layer_forward(
    layer: Layer,
    stream: Stream,
    inputs: PackedInputs,
    only_last: bool,
    save: bool,
    recompute: bool = False,
) -> tuple[Stream, SavedLayer]:
    """One layer, from the sum that its first norm computes to the one that the next layer's first norm computes."""
    spec, layout, (dropout_state, mlp_dropout_state) = layer.spec, inputs.layout, inputs.dropout_states(only_last)
    attention_post, mlp_post = spec.attention_post_norm, spec.mlp_post_norm
    out_format, second = layer.qkv.operand_format(len(stream.x)), None
    if spec.parallel_residual and not only_last:  # both norms read the same sum; in the last layer the MLP has few rows
        second = (spec.mlp_norm, layer.up.operand_format(len(stream.x)))
    x, normed, mlp_normed = norm(stream, spec.attention_norm, out_format, second)
    saved = SavedLayer(x)
    qkv, saved.qkv = layer.qkv.forward(normed, dropout_state, add_bias=True)
    (q, k, v), saved.heads = rotate_heads(qkv, spec.attention, layout.position_ids, spec.rotary, save)
    residual = x
    if only_last:
        q, residual = q[layout.last_tokens], x[layout.last_tokens]
    out_format = layer.out.operand_format(len(q))
    attended, saved.attention = attend(
        q, k, v, layout, spec.attention.scores, only_last, save, out_format.extra_columns
    )
    out_bias = None if attention_post else layer.out.pending_bias
    out_x = as_operand(attended.flatten(1), out_format)
    out, saved.out = layer.out.forward(out_x, mlp_dropout_state, add_bias=attention_post is not None)
    saved.attention_post = out if attention_post else None
    saved.mlp_x = x
    if mlp_normed is None:
        branch = Stream(residual) if spec.parallel_residual else Stream(residual, [out], out_bias, attention_post)
        saved.mlp_x, mlp_normed, _ = norm(branch, spec.mlp_norm, layer.up.operand_format(len(q)))
    saved.hidden, saved.up = layer.up.forward(mlp_normed, mlp_dropout_state)
    del mlp_normed
    if recompute and not layer.down.adapters and mlp_post is None:  # nothing needs the layer's output
        return stream, saved
    out_format = layer.down.operand_format(len(q))
    activated = activate(saved.hidden, layer.activation, spec.gated, layer.up.pending_bias, out_format)
    down, saved.down = layer.down.forward(activated, mlp_dropout_state, add_bias=mlp_post is not None)
    saved.mlp_post = down if mlp_post else None
    addends = [out, down] if spec.parallel_residual else [down]
    return Stream(saved.mlp_x, addends, layer.pending_bias, mlp_post), saved


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
    grad, part = layer.down.backward(d_down, saved.down, mlp_dropout_state, gradients, True)
    assert grad is not None
    out_format = layer.up.operand_format(rows)
    hidden = activate_backward(
        grad, saved.hidden, layer.activation, spec.gated, layer.up.pending_bias, out_format, part
    )
    saved.hidden = None
    grad = whole(*layer.up.backward(hidden, saved.up, mlp_dropout_state, gradients, True))
    del hidden
    del d_down
    out_format = layer.out.operand_format(rows)
    if spec.parallel_residual or spec.attention_post_norm is not None:
        out_format = UNQUANTIZED
    # With a parallel residual both branches start at the layer's input, and attention's output is an addend of the sum.
    second = (grad, spec.mlp_norm) if spec.parallel_residual and not only_last else None
    d_mlp = d if second else norm_backward(grad, saved.mlp_x, spec.mlp_norm, d.values, out_format)
    d_out = d if spec.parallel_residual else d_mlp
    d_out = _addend_backward(d_out, saved.attention_post, spec.attention_post_norm, layer.out.operand_format(rows))
    grad = whole(*layer.out.backward(d_out, saved.out, mlp_dropout_state, gradients, True))
    shape = (len(grad), spec.attention.heads, spec.attention.head_size)
    joined = grad.new_empty(len(saved.x), layer.qkv.weight.shape[0])
    target = spec.attention.split(joined)
    before = HeadInputs(spec.attention, spec.rotary, saved.heads)
    by_attention = before if reaches_projection(saved.attention, only_last, before) else None
    source = attend_backward(
        saved.attention, grad.view(shape), layout, spec.attention.scores, only_last, target, by_attention
    )
    if only_last:
        dq = source[0].new_zeros(target[0].shape).index_copy_(0, layout.last_tokens, source[0])
        source = (dq, *source[1:])
    if by_attention is None:
        rotate_heads_backward(source, target, before, layout.position_ids)
    d_qkv = as_operand(joined, layer.qkv.operand_format(len(joined)))
    grad, part = layer.qkv.backward(d_qkv, saved.qkv, dropout_state, gradients, need_input)
    if not need_input:
        return None
    grad = whole(grad, part)
    out_format = layer.down.operand_format(len(grad)) if spec.mlp_post_norm is None else UNQUANTIZED
    if only_last:
        total = norm_backward(grad, saved.x, spec.attention_norm, None).tensor
        return as_operand(total.index_add_(0, layout.last_tokens, d_mlp.tensor), out_format)
    return norm_backward(grad, saved.x, spec.attention_norm, d_mlp.values, out_format, second)


def _addend_backward(d: Operand, x: Tensor | None, post_norm: Norm | None, out_format: OperandFormat) -> Operand:
    """From the gradient of the residual stream to that of a branch, whose norm had the input ``x``."""
    if x is None or post_norm is None:
        return d
    return norm_backward(d.tensor, x, post_norm, None, out_format)
