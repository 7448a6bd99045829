"""A frozen decoder with LoRA adapters as one function: packed texts in, one hidden state per text out.

What is exact and what it saves, compared with the same layers under autograd:

- Only what the adapters' gradients need is saved and computed: no gradient of frozen weights, none below the first
  adapter, and each element-wise step is one pass (``kernels.py``) instead of several.
- Of the last layer only each text's last token is needed: query, output projection and MLP take ``n`` rows
  instead of all tokens, which for 36 layers is 2 % of all matrix products.
- Layers can be recomputed instead of saved, by number, so that a batch fits whatever memory is free. Recomputing a
  layer leaves its down projection out, since nothing needs its output.

The residual stream has the dtype of the weights, as in ``transformers``; sums and norms are float32 inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm_cls.engine.attention import SavedAttention, attend, attend_backward
from llm_cls.engine.kernels import activate, activate_backward, as_operand, norm, norm_backward, rotate
from llm_cls.engine.layers import FusedLayers, Layer
from llm_cls.engine.packing import PackedLayout
from llm_cls.engine.projection import SavedProjection, cast_adapters
from llm_cls.engine.tensors import UNQUANTIZED, DropoutState, Operand


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

    def dropout_states(self, only_last: bool) -> tuple[DropoutState | None, DropoutState | None]:
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
        stats: Of the norm before attention.
        qkv: Of the projection to query, key and value.
        attention: Of attention.
        out: Of the projection after attention.
        mlp_x: The input of the norm before the MLP.
        mlp_stats: Of the norm before the MLP.
        up: Of the projection into the MLP.
        hidden: The input of the MLP's activation.
        down: Of the projection out of the MLP.
    """

    x: Tensor
    stats: Tensor | None = None
    qkv: SavedProjection | None = None
    attention: SavedAttention | None = None
    out: SavedProjection | None = None
    mlp_x: Tensor | None = None
    mlp_stats: Tensor | None = None
    up: SavedProjection | None = None
    hidden: Tensor | None = None
    down: SavedProjection | None = None


@dataclass
class SavedForward:
    """What ``forward`` saves for ``backward``: per layer, and input and statistics of the final norm."""

    layers: list[SavedLayer | None]
    final: Tensor
    final_stats: Tensor | None


def forward(
    network: FusedLayers, inputs: PackedInputs, save: bool, recompute_layers: int = 0
) -> tuple[Tensor, SavedForward | None]:
    """The normalised hidden state of each text's last token.

    Args:
        network: The layers.
        inputs: The batch.
        save: Whether ``backward`` will be called.
        recompute_layers: How many layers save only their input.

    Returns:
        ``(pooled, saved)`` with ``pooled`` of shape ``(n, hidden_size)``.
    """
    cast_adapters(network.adapters)
    first = network.first_trained
    x: Tensor = network.embedding[inputs.input_ids]
    addends: list[Tensor] = []
    pending_bias: Tensor | None = None
    saved: list[SavedLayer | None] = []
    for i, layer in enumerate(network.layers):
        save_layer = save and i >= first
        only_last = i == len(network.layers) - 1
        x, addends, saved_layer = _forward(layer, x, addends, pending_bias, inputs, only_last, save_layer)
        pending_bias = layer.pending_bias
        if save_layer and i - first < recompute_layers:
            saved_layer = SavedLayer(saved_layer.x)
        saved.append(saved_layer if save_layer else None)
        del saved_layer  # so that its memory is free for the next layer where it isn't saved
    final = norm(x, addends, network.final_norm, pending_bias)
    return final.normed.tensor, SavedForward(saved, final.total, final.stats) if save else None


def backward(network: FusedLayers, inputs: PackedInputs, saved: SavedForward, grad: Tensor) -> list[Tensor]:
    """Gradients of all adapter weights, in the order of ``network.parameters``.

    Args:
        network: The layers.
        inputs: The batch that ``forward`` was given.
        saved: What ``forward`` returned; its memory is released layer by layer.
        grad: With respect to ``pooled``, in the dtype of the weights.
    """
    gradients: dict[nn.Parameter, Tensor] = {}
    first = network.first_trained
    d: Operand | None = norm_backward(grad, saved.final, saved.final_stats, network.final_norm, None)
    for i in reversed(range(first, len(network.layers))):
        layer, saved_layer, only_last = network.layers[i], saved.layers[i], i == len(network.layers) - 1
        assert saved_layer is not None and d is not None
        if saved_layer.qkv is None:
            saved_layer = _forward(layer, saved_layer.x, [], None, inputs, only_last, save=True, recompute=True)[2]
        saved.layers[i] = None  # so that its memory is free for the layers below
        d = _backward(layer, saved_layer, d, inputs, only_last, need_input=i > first, gradients=gradients)
    adapters = network.adapters
    torch._foreach_mul_([gradients[adapter.b] for adapter in adapters], [adapter.scaling for adapter in adapters])
    return [gradients[parameter] for parameter in network.parameters]


def _forward(
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
    parts = spec.attention.split(qkv)
    rotate(parts, parts, layout.position_ids, spec.rotary.cos, spec.rotary.sin, 1)
    q, k, v = parts
    residual = x
    if only_last:
        q, residual = q[layout.last_tokens], x[layout.last_tokens]
    attended, saved.attention = attend(q, k, v, layout, spec.attention.scaling, only_last, save)
    attended = attended.reshape(len(q), -1)
    out, saved.out = layer.out.forward(as_operand(attended, layer.out.operand_format(len(q))), mlp_dropout_state)
    branches, bias = ([], None) if spec.parallel_residual else ([out], layer.out.pending_bias)
    saved.mlp_x, normed, saved.mlp_stats = norm(
        residual, branches, spec.mlp_norm, bias, layer.up.operand_format(len(q))
    )
    saved.hidden, saved.up = layer.up.forward(normed, mlp_dropout_state)
    if recompute and not layer.down.adapters:  # nothing needs the layer's output
        saved.down = []
        return x, [], saved
    out_format = layer.down.operand_format(len(q))
    activated = activate(saved.hidden, layer.activation, spec.gated, layer.up.pending_bias, out_format)
    down, saved.down = layer.down.forward(activated, mlp_dropout_state)
    return saved.mlp_x, [out, down] if spec.parallel_residual else [down], saved


def _backward(
    layer: Layer,
    saved: SavedLayer,
    d: Operand,
    inputs: PackedInputs,
    only_last: bool,
    need_input: bool,
    gradients: dict[nn.Parameter, Tensor],
) -> Operand | None:
    """From ``d``, the gradient with respect to a layer's output, to that with respect to its input."""
    spec, layout, (dropout_state, mlp_dropout_state) = layer.spec, inputs.layout, inputs.dropout_states(only_last)
    assert saved.mlp_x is not None and saved.hidden is not None and saved.attention is not None
    assert saved.qkv is not None and saved.out is not None and saved.up is not None and saved.down is not None
    rows = len(saved.mlp_x)
    grad = layer.down.backward(d, saved.down, mlp_dropout_state, gradients, True)
    assert grad is not None
    out_format = layer.up.operand_format(rows)
    hidden = activate_backward(grad, saved.hidden, layer.activation, spec.gated, layer.up.pending_bias, out_format)
    saved.hidden = None
    grad = layer.up.backward(hidden, saved.up, mlp_dropout_state, gradients, True)
    assert grad is not None
    del hidden
    out_format = UNQUANTIZED if spec.parallel_residual else layer.out.operand_format(rows)
    d_mlp = norm_backward(grad, saved.mlp_x, saved.mlp_stats, spec.mlp_norm, d.values, out_format)
    # With a parallel residual both branches start at the layer's input, and attention's output is an addend of the sum.
    grad = layer.out.backward(d if spec.parallel_residual else d_mlp, saved.out, mlp_dropout_state, gradients, True)
    assert grad is not None
    shape = (len(grad), spec.attention.heads, spec.attention.head_size)
    joined = grad.new_empty(len(saved.x), layer.qkv.weight.shape[0])
    target = spec.attention.split(joined)
    scaling = spec.attention.scaling
    source = attend_backward(saved.attention, grad.view(shape), layout, scaling, only_last, target)
    if only_last:
        dq = source[0].new_zeros(target[0].shape).index_copy_(0, layout.last_tokens, source[0])
        source = (dq, *source[1:])
    rotate(source, target, layout.position_ids, spec.rotary.cos, spec.rotary.sin, -1)
    d_qkv = as_operand(joined, layer.qkv.operand_format(len(joined)))
    grad = layer.qkv.backward(d_qkv, saved.qkv, dropout_state, gradients, need_input)
    if grad is None:
        return None
    out_format = layer.down.operand_format(len(grad))
    if only_last:
        total = norm_backward(grad, saved.x, saved.stats, spec.attention_norm, None).tensor
        return as_operand(total.index_add_(0, layout.last_tokens, d_mlp.tensor), out_format)
    return norm_backward(grad, saved.x, saved.stats, spec.attention_norm, d_mlp.values, out_format)
