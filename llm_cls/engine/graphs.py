"""CUDA graphs: for small batches, starting a thousand kernels takes longer than running them.

A graph replays them with one call, but its shapes are fixed. So the tokens of a batch are filled up to the next of
sixteen sizes per power of two (3 % more tokens on average) with one more text whose state is not used. The graph of a
size is captured when the size occurs for the second time. The first time its kernels are launched one by one: many
sizes occur only once, and the kernels must be loaded before a capture. All graphs share their memory, because only one
runs at a time, from its forward pass to the end of its backward pass.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_cls.engine import network
from llm_cls.engine.layer_pass import PackedInputs
from llm_cls.engine.layers import FusedLayers
from llm_cls.engine.lora import AdapterGradients
from llm_cls.engine.packing import PackedLayout, packed_positions

log = logging.getLogger(__name__)

_SMALL_FLOPS = 1.6e12  # of a layer's matrix products: about where launching and computing take the same time


def bucket_size(tokens: int) -> int:
    """The size to which a batch is filled up: a multiple of a sixteenth of the power of two below it.

    >>> [bucket_size(n) for n in (1, 65, 786, 1025)]
    [16, 80, 800, 1088]
    """
    step = max(1 << max((tokens - 1).bit_length() - 5, 0), 16)
    return -(-tokens // step) * step


@dataclass
class _Graph:
    """A captured size: write ``static``, replay ``forward``, read ``pooled``; likewise backward."""

    static: Tensor
    inputs: PackedInputs
    forward: torch.cuda.CUDAGraph
    pooled: Tensor
    backward: torch.cuda.CUDAGraph
    grad: Tensor


class Graphs:
    """The graphs of one network.

    Attributes:
        max_tokens: Size of the largest batch that gains from a graph.
    """

    def __init__(self, network: FusedLayers, max_seqlen: int) -> None:
        """Takes a network and its longest text in tokens; captures nothing yet."""
        self._network, self._max_seqlen = network, max_seqlen
        self._seen: Counter[tuple[int, int, bool]] = Counter()
        self._graphs: dict[tuple[int, int, bool], _Graph] = {}
        self._pool: Any = None
        self._stream: Any = None
        self._gradients: AdapterGradients | None = None
        self._latest: object = None
        projections = [x for layer in network.layers for x in layer.projections]
        elements = sum(projection.weight.numel() for projection in projections)
        self.max_tokens = int(_SMALL_FLOPS * len(network.layers) / (4 * elements))

    def forward(self, input_ids: Tensor, seq_lens: Sequence[int], rng: tuple[int, int] | None) -> "Replay | None":
        """Runs a batch through the graph of its size.

        Args:
            input_ids: int64, shape ``(sum(seq_lens),)``.
            seq_lens: Tokens of each text.
            rng: Seed and first token; None: no dropout.

        Returns:
            The forward pass, or None where its size occurs for the first time or there is no memory for its graph.
        """
        tokens, n = bucket_size(sum(seq_lens) + 1), len(seq_lens) + 1  # the text that fills up has at least one token
        key = (tokens, n, rng is not None)
        self._seen[key] += 1
        if self._seen[key] <= 1:
            return None
        host = self._host_buffer(seq_lens, tokens, rng)
        if key in self._graphs:
            _fill(self._graphs[key].static, host, input_ids)
        else:
            try:
                self._graphs[key] = self._capture(tokens, n, rng is not None, host, input_ids)
            except torch.OutOfMemoryError:
                log.warning("Not enough memory for another CUDA graph; batches of %d tokens run without one", tokens)
                self._seen[key] = -(2**62)  # so that it is not tried another time
                return None
        graph = self._graphs[key]
        graph.forward.replay()
        self._latest = replay = Replay(self, graph)
        return replay

    def _capture(self, tokens: int, n: int, has_dropout: bool, host: Tensor, input_ids: Tensor) -> _Graph:
        static = torch.zeros(tokens + len(host), dtype=torch.int64, device=input_ids.device)
        _fill(static, host, input_ids)
        ids, position_ids, cu_seqlens, last_tokens, rng = static.split([tokens, tokens, n + 1, n, 2])
        if self._gradients is None:
            self._gradients, self._stream = AdapterGradients(self._network.adapters), torch.cuda.Stream()
        if not self._graphs:  # a pool ends with its last graph, also where the first capture has failed
            self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize()
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        max_seqlen = max(self._max_seqlen, tokens // 16 + 16)  # the text that fills up may be the longest
        with self._captured(forward):
            layout = PackedLayout(position_ids.int(), cu_seqlens.int(), last_tokens, (), max_seqlen)
            inputs = PackedInputs(ids, layout, rng if has_dropout else None)
            pooled, saved = network.forward(self._network, inputs, save=True)
        assert saved is not None
        grad = torch.zeros_like(pooled)
        with self._captured(backward):
            network.backward(self._network, inputs, saved, grad, self._gradients)
        return _Graph(static, inputs, forward, pooled, backward, grad)

    @contextmanager
    def _captured(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                yield
            except BaseException:
                with suppress(RuntimeError):  # the first error is the one to report
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)

    def _host_buffer(self, seq_lens: Sequence[int], tokens: int, rng: tuple[int, int] | None) -> Tensor:
        """All that a graph reads besides the ids, as one pinned buffer, so that one copy suffices."""
        position_ids, cu_seqlens = packed_positions([*seq_lens, tokens - sum(seq_lens)])
        position_ids.clamp_(max=self._max_seqlen - 1)  # the rotary table ends there
        return torch.cat([position_ids, cu_seqlens, cu_seqlens[1:] - 1, torch.tensor(rng or (0, 0))]).pin_memory()

    def backward(self, replay: "Replay", grad: Tensor) -> list[Tensor]:
        """Gradients in the order of ``FusedLayers.parameters``.

        Raises:
            RuntimeError: Another batch has been through the network since.
        """
        if replay is not self._latest:
            raise RuntimeError("a batch's backward pass must come before the next batch's forward pass")
        replay.graph.grad[:-1].copy_(grad)
        replay.graph.backward.replay()
        assert self._gradients is not None
        return self._gradients.copy().of(self._network.parameters)


class Replay:
    """One forward pass through a graph.

    Attributes:
        pooled: Shape ``(n, hidden_size)``, a copy.
    """

    def __init__(self, graphs: Graphs, graph: _Graph) -> None:
        """Copies the result out of the graph's memory."""
        self.graph = graph
        self.pooled = graph.pooled[:-1].clone()
        self._graphs = graphs

    def backward(self, grad: Tensor) -> list[Tensor]:
        """See ``Graphs.backward``."""
        return self._graphs.backward(self, grad)


def _fill(static: Tensor, host: Tensor, input_ids: Tensor) -> None:
    static[: len(input_ids)].copy_(input_ids, non_blocking=True)
    static[len(static) - len(host) :].copy_(host, non_blocking=True)
