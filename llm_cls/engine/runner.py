"""The fused decoder as the classifier calls it: a packed batch in, pooled states with a gradient out."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llm_cls.engine import network
from llm_cls.engine.attention import Texts, has_varlen, places
from llm_cls.engine.graphs import Graphs, Replay
from llm_cls.engine.memory import Plan, free_bytes, plan
from llm_cls.engine.network import Inputs, Tape
from llm_cls.engine.spec import Blocks

log = logging.getLogger(__name__)


class FusedDecoder:
    """Runs ``network.py`` on batches, kernel by kernel or as CUDA graphs.

    Attributes:
        blocks: The network.
        max_length: Tokens per text at most.
    """

    def __init__(self, blocks: Blocks, max_length: int, max_texts: int, recompute: bool | None) -> None:
        """Takes a described decoder.

        Args:
            blocks: The network.
            max_length: Tokens per text at most.
            max_texts: Texts per training batch at most.
            recompute: Whether all layers are computed again in the backward pass; None: as many as memory wants.
        """
        self.blocks, self.max_length = blocks, max_length
        self._recompute = recompute
        self._max_tokens = max_texts * max_length
        self._parameters = network.parameters(blocks)
        self._drops = any(adapter.p for block in blocks.layers for adapter in block.adapters)
        weight = blocks.embedding
        self._graphs = Graphs(blocks, max_length) if has_varlen(weight.device, weight.dtype) else None
        self._seed = 0

    @cached_property
    def memory(self) -> Plan:
        """What fits; settled when the first batch comes, with the weights on the device."""
        device = self.blocks.embedding.device
        graph_tokens = 0
        if self._graphs is not None and not self._recompute:
            graph_tokens = min(self._max_tokens, self._graphs.max_tokens)
        found = plan(self.blocks, free_bytes(device) if device.type == "cuda" else None, graph_tokens)
        log.debug("Tokens at a time: %s in training, %s in scoring", found.max_tokens, found.max_eval_tokens)
        return found

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit at a time; None where memory sets no limit."""
        return self.memory.max_tokens

    def recomputed(self, tokens: int) -> int:
        """How many layers of a batch with so many tokens are computed again."""
        if self._recompute is None:
            return self.memory.recomputed(tokens)
        return len(self.blocks.layers) if self._recompute else 0

    def __call__(self, input_ids: Tensor, lengths: Sequence[int], first_token: int, training: bool) -> Tensor:
        """The hidden state of each text's last token, shape ``(n, hidden_size)``.

        Args:
            input_ids: int64, shape ``(sum(lengths),)``.
            lengths: Tokens of each text.
            first_token: Tokens of the optimizer step before this batch; 0 draws a new seed for its dropout.
            training: Whether there is dropout.
        """
        rng = None
        if training and self._drops:
            if first_token == 0:
                self._seed = int(torch.randint(2**31, ()))
            rng = (self._seed, first_token)
        if not torch.is_grad_enabled() or not self._parameters:
            return network.forward(self.blocks, self._inputs(input_ids, lengths, rng), save=False)[0]
        pooled: Tensor = _Run.apply(self, input_ids, lengths, rng, *self._parameters)  # type: ignore[no-untyped-call]
        return pooled

    def run(self, input_ids: Tensor, lengths: Sequence[int], rng: tuple[int, int] | None) -> "tuple[Tensor, Pass]":
        """The pooled states and what their backward pass needs."""
        tokens = len(input_ids)
        graphs = self._graphs
        if graphs is not None and graphs.pays(tokens) and self.memory.graphs:
            replay = graphs.forward(input_ids, lengths, rng)
            if replay is not None:
                return replay.pooled, replay
        inputs = self._inputs(input_ids, lengths, rng)
        pooled, tape = network.forward(self.blocks, inputs, save=True, recomputed=self.recomputed(tokens))
        assert tape is not None
        return pooled, _Eager(self.blocks, inputs, tape)

    def _inputs(self, input_ids: Tensor, lengths: Sequence[int], rng: tuple[int, int] | None) -> Inputs:
        device = input_ids.device
        numbers = None if rng is None else to_device(torch.tensor(rng), device)
        return Inputs(input_ids, texts(lengths, self.max_length, device), numbers)


class _Eager:
    """One forward pass, kernel by kernel."""

    def __init__(self, blocks: Blocks, inputs: Inputs, tape: Tape) -> None:
        self._blocks, self._inputs, self._tape = blocks, inputs, tape

    def backward(self, grad: Tensor) -> list[Tensor]:
        return network.backward(self._blocks, self._inputs, self._tape, grad)


Pass = Replay | _Eager


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        decoder: FusedDecoder,
        input_ids: Tensor,
        lengths: Sequence[int],
        rng: tuple[int, int] | None,
        *parameters: Tensor,
    ) -> Tensor:
        pooled, ctx.run = decoder.run(input_ids, lengths, rng)
        return pooled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gradients = ctx.run.backward(grads[0])
        ctx.run = None
        return None, None, None, None, *gradients


def texts(lengths: Sequence[int], max_length: int, device: torch.device) -> Texts:
    """Where texts of these lengths lie in a packed batch."""
    positions, ends = places(lengths)
    moved = [to_device(place, device) for place in (positions.int(), ends.int(), ends[1:] - 1)]
    return Texts(moved[0], moved[1], moved[2], tuple(lengths), max_length)


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """A copy for which nobody waits: out of pinned memory."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers
