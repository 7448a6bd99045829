"""How much of a batch fits in memory: where it is split, and how many layers are recomputed instead of saved.

Splitting comes first. Fewer texts at a time only make the matrix products a little less efficient, while each layer
that is recomputed costs a second forward pass. Neither changes what is learnt.
"""

from dataclasses import dataclass

import torch

from llm_cls.engine.layers import FusedLayers, Layer

_EFFICIENT_TOKENS = 2048  # matrix products of fewer rows leave a large GPU idle
_SHARE = 0.9  # of the free memory; the rest is for fragmentation and for what libraries allocate
_RESERVE = 256 * 2**20
_GRAPH_SHARE = 0.4  # of the remainder; graphs never release their memory
_OPTIMIZER_BYTES = 12  # per trained weight: gradient and two moments, which come after the first step


@dataclass(frozen=True)
class Plan:
    """What fits on a device.

    Attributes:
        max_tokens: Tokens that go through the network at a time in training; None: any number.
        max_eval_tokens: The same where no gradient is needed.
        available: Bytes for activations; None: not limited.
        saved: Bytes per token of a layer whose activations are saved.
        recomputed: Bytes per token of a layer that is recomputed.
        working: Bytes per token of temporary tensors.
        layers: Layers with a backward pass.
        graphs: Whether CUDA graphs fit; their memory is not part of ``available``.
    """

    max_tokens: int | None
    max_eval_tokens: int | None
    available: int | None
    saved: int
    recomputed: int
    working: int
    layers: int
    graphs: bool

    def recompute_layers(self, tokens: int) -> int:
        """How many layers of a batch with so many tokens must save only their input."""
        if self.available is None:
            return 0
        missing = tokens * (self.layers * self.saved + self.working) - self.available
        return min(max(-(-missing // (tokens * (self.saved - self.recomputed))), 0), self.layers)


def plan(network: FusedLayers, free: int | None, graph_tokens: int) -> Plan:
    """The plan for the memory that is free once the weights are on the device; it leaves room for the optimizer.

    Args:
        network: The layers.
        free: Bytes; None: not limited.
        graph_tokens: Tokens of the largest batch for which there will be a CUDA graph; 0: there will be none.
    """
    layers = len(network.layers) - network.first_trained
    size = network.embedding.element_size()
    hidden = network.embedding.shape[1] * size
    saved = max((_saved_elements(layer) for layer in network.layers), default=0) * size
    working = max((_working_elements(layer) for layer in network.layers), default=0) * size
    if free is None:
        return Plan(None, None, None, saved, hidden, working, layers, graph_tokens > 0)
    trained = sum(parameter.numel() for parameter in network.parameters)
    available = int(_SHARE * free) - _RESERVE - _OPTIMIZER_BYTES * trained
    each = max(layers * saved + working, 1)
    graphs = 0 < graph_tokens * each <= _GRAPH_SHARE * available
    if graphs:
        available -= graph_tokens * each
    all_saved = available // each
    all_recomputed = available // max(layers * hidden + saved + working, 1)
    max_tokens = all_saved if all_saved >= _EFFICIENT_TOKENS else min(_EFFICIENT_TOKENS, all_recomputed)
    max_eval_tokens = available // max(working + 4 * hidden, 1)
    return Plan(max(max_tokens, 1), max(max_eval_tokens, 1), max(available, 0), saved, hidden, working, layers, graphs)


def free_bytes(device: torch.device) -> int:
    """Device memory that this process may still allocate, within ``torch``'s limit for the process."""
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    limit = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return min(free, limit - reserved) + reserved - torch.cuda.memory_allocated(device)


def _saved_elements(layer: Layer) -> int:
    """Elements per token that the backward pass of a layer needs: the content of ``network.SavedLayer``."""
    adapters = sum(projection.saved_elements for projection in layer.projections)
    hidden: int = layer.spec.attention_norm.weight.shape[0]
    outputs: int = layer.qkv.weight.shape[0] + layer.up.weight.shape[0]
    inputs: int = layer.out.weight.shape[1]
    normed_heads: int = 0 if layer.spec.attention.query_norm is None else layer.qkv.weight.shape[0]
    post_norms = [norm for norm in (layer.spec.attention_post_norm, layer.spec.mlp_post_norm) if norm is not None]
    return (2 + len(post_norms)) * hidden + outputs + inputs + normed_heads + adapters


def _working_elements(layer: Layer) -> int:
    """Elements per token of the temporary tensors of a layer's backward pass, at most."""
    hidden: int = layer.spec.attention_norm.weight.shape[0]
    outputs: int = layer.qkv.weight.shape[0] + layer.up.weight.shape[0]
    inputs: int = layer.down.weight.shape[1]
    return 2 * outputs + inputs + 6 * hidden
