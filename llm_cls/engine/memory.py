"""How much of a batch fits: what is split, and which layers are computed again instead of kept.

Splitting comes first. A batch of fewer texts costs nothing but a little efficiency of the matrix products,
while each layer that is computed again costs a second forward pass. Neither changes what is learnt.
"""

from dataclasses import dataclass

import torch

from llm_cls.engine.network import first_trained, parameters
from llm_cls.engine.spec import Block, Blocks

_EFFICIENT_TOKENS = 2048  # matrix products of fewer rows leave a large GPU idle
_SHARE = 0.9  # of the free memory; the rest is for fragments and for what libraries take
_RESERVE = 256 * 2**20
_GRAPH_SHARE = 0.4  # of the rest; graphs never give their memory back
_OPTIMIZER_BYTES = 12  # per trained weight: gradient and two moments, which come after the first step


@dataclass(frozen=True)
class Plan:
    """What fits on a device.

    Attributes:
        max_tokens: Tokens that go through the network at a time in training; None: any number.
        max_eval_tokens: The same where no gradient is wanted.
        available: Bytes for activations; None: not limited.
        kept: Bytes per token of a layer whose activations are kept.
        again: Bytes per token of one that is computed again.
        working: Bytes per token besides.
        layers: Layers with a backward pass.
        graphs: Whether there is room for CUDA graphs; what they take is not in ``available``.
    """

    max_tokens: int | None
    max_eval_tokens: int | None
    available: int | None
    kept: int
    again: int
    working: int
    layers: int
    graphs: bool

    def recomputed(self, tokens: int) -> int:
        """How many layers of a batch with so many tokens keep their input alone."""
        if self.available is None:
            return 0
        missing = tokens * (self.layers * self.kept + self.working) - self.available
        return min(max(-(-missing // (tokens * (self.kept - self.again))), 0), self.layers)


def plan(blocks: Blocks, free: int | None, graph_tokens: int) -> Plan:
    """The plan for the memory that is free, with the weights on the device and room left for the optimizer.

    Args:
        blocks: The network.
        free: Bytes; None: not limited.
        graph_tokens: Of the largest batch for which there will be a CUDA graph; 0 where there will be none.
    """
    layers = len(blocks.layers) - first_trained(blocks)
    size = blocks.embedding.element_size()
    hidden = blocks.embedding.shape[1] * size
    kept = max((_kept(block) for block in blocks.layers), default=0) * size
    working = max((_working(block) for block in blocks.layers), default=0) * size
    if free is None:
        return Plan(None, None, None, kept, hidden, working, layers, graph_tokens > 0)
    trained = sum(parameter.numel() for parameter in parameters(blocks))
    available = int(_SHARE * free) - _RESERVE - _OPTIMIZER_BYTES * trained
    each = max(layers * kept + working, 1)
    graphs = 0 < graph_tokens * each <= _GRAPH_SHARE * available
    if graphs:
        available -= graph_tokens * each
    everything = available // each
    inputs_alone = available // max(layers * hidden + kept + working, 1)
    max_tokens = everything if everything >= _EFFICIENT_TOKENS else min(_EFFICIENT_TOKENS, inputs_alone)
    scored = available // max(working + 4 * hidden, 1)
    return Plan(max(max_tokens, 1), max(scored, 1), max(available, 0), kept, hidden, working, layers, graphs)


def free_bytes(device: torch.device) -> int:
    """Device memory that this process may still take, ``torch``'s limit for the process considered."""
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    limit = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return min(free, limit - reserved) + reserved - torch.cuda.memory_allocated(device)


def _kept(block: Block) -> int:
    """Elements per token that the backward pass of a layer needs: what ``network._Kept`` holds."""
    adapters = sum(adapter.a.shape[1] + adapter.a.shape[0] for adapter in block.adapters)
    hidden: int = block.norm1.weight.shape[0]
    outputs: int = block.qkv.weight.shape[0] + block.up.weight.shape[0]
    inputs: int = block.out.weight.shape[1]
    return 2 * hidden + outputs + inputs + adapters


def _working(block: Block) -> int:
    """Elements per token that a layer's backward pass makes and drops, at most."""
    hidden: int = block.norm1.weight.shape[0]
    outputs: int = block.qkv.weight.shape[0] + block.up.weight.shape[0]
    inputs: int = block.down.weight.shape[1]
    return 2 * outputs + inputs + 6 * hidden
