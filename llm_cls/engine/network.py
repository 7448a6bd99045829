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

from dataclasses import dataclass

from torch import Tensor

from llm_cls.engine.kernels import norm, norm_backward
from llm_cls.engine.layer_pass import PackedInputs, SavedLayer, layer_backward, layer_forward
from llm_cls.engine.layers import FusedLayers
from llm_cls.engine.lora import AdapterGradients
from llm_cls.engine.tensors import Operand, Stream


@dataclass
class SavedForward:
    """What ``forward`` saves for ``backward``: per layer, and the input of the final norm."""

    layers: list[SavedLayer | None]
    final: Tensor


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
    network.casts.update()
    first = network.first_trained
    x: Tensor = network.embedding[inputs.input_ids]
    if network.embedding_scale != 1:
        x *= network.embedding_scale
    stream = Stream(x)
    del x
    saved: list[SavedLayer | None] = []
    for i, layer in enumerate(network.layers):
        save_layer = save and i >= first
        only_last = i == len(network.layers) - 1
        stream, saved_layer = layer_forward(layer, stream, inputs, only_last, save_layer)
        if save_layer and i - first < recompute_layers:
            saved_layer = SavedLayer(saved_layer.x)
        saved.append(saved_layer if save_layer else None)
        del saved_layer  # so that its memory is free for the next layer where it isn't saved
    final = norm(stream, network.final_norm)
    return final.normed.tensor, SavedForward(saved, final.total) if save else None


def backward(
    network: FusedLayers,
    inputs: PackedInputs,
    saved: SavedForward,
    grad: Tensor,
    gradients: AdapterGradients | None = None,
) -> list[Tensor]:
    """Gradients of all adapter weights, in the order of ``network.parameters``.

    Args:
        network: The layers.
        inputs: The batch that ``forward`` was given.
        saved: What ``forward`` returned; its memory is released layer by layer.
        grad: With respect to ``pooled``, in the dtype of the weights.
        gradients: Where they go; None: into new memory.
    """
    gradients = gradients or AdapterGradients(network.adapters)
    first = network.first_trained
    d: Operand | None = norm_backward(grad, saved.final, network.final_norm, None)
    for i in reversed(range(first, len(network.layers))):
        layer, saved_layer, only_last = network.layers[i], saved.layers[i], i == len(network.layers) - 1
        assert saved_layer is not None and d is not None
        if saved_layer.mlp_x is None:  # only its input was saved
            start = Stream(saved_layer.x)
            _, saved_layer = layer_forward(layer, start, inputs, only_last, save=True, recompute=True)
        saved.layers[i] = None  # so that its memory is free for the layers below
        d = layer_backward(layer, saved_layer, d, inputs, only_last, need_input=i > first, gradients=gradients)
    gradients.scale()
    return gradients.of(network.parameters)
