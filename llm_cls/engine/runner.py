"""The fused decoder as the classifier calls it: a packed batch in, pooled states with a gradient out."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llm_cls.engine import kernels, network
from llm_cls.engine.attention import has_attention_kernel
from llm_cls.engine.graphs import Graphs, Replay
from llm_cls.engine.layer_pass import PackedInputs
from llm_cls.engine.layers import FusedLayers
from llm_cls.engine.memory import Plan, free_bytes, plan
from llm_cls.engine.network import SavedForward
from llm_cls.engine.packing import PackedLayout, to_device

log = logging.getLogger(__name__)


class FusedDecoder:
    """Runs ``network.py`` on batches, with CUDA graphs where they help; an ``Encoder``.

    Attributes:
        layers: "fused".
        network: The layers.
        max_seqlen: Tokens per text at most.
    """

    layers = "fused"

    def __init__(self, network: FusedLayers, max_seqlen: int, max_texts: int, recompute: bool | None) -> None:
        """Takes the layers of a decoder.

        Args:
            network: The layers.
            max_seqlen: Tokens per text at most.
            max_texts: Texts per training batch at most.
            recompute: Whether all layers are recomputed in the backward pass; None: as many as memory requires.
        """
        self.network, self.max_seqlen = network, max_seqlen
        self._recompute = recompute
        self._max_batch_tokens = max_texts * max_seqlen
        self._parameters = network.parameters
        self._has_dropout = any(adapter.p for adapter in network.adapters)
        weight = network.embedding
        attentions = [layer.spec.attention for layer in network.layers]
        capable = [has_attention_kernel(weight.device, weight.dtype, x.head_size, x.scores) for x in attentions]
        self._graphs = Graphs(network, max_seqlen) if all(capable) else None
        self._seed = 0
        self._compiled: set[bool] = set()

    @cached_property
    def memory(self) -> Plan:
        """What fits; determined at the first batch, when the weights are on the device."""
        device = self.network.embedding.device
        graph_tokens = 0
        if self._graphs is not None and not self._recompute:
            graph_tokens = min(self._max_batch_tokens, self._graphs.max_tokens)
        found = plan(self.network, free_bytes(device) if device.type == "cuda" else None, graph_tokens)
        log.debug("Tokens at a time: %s in training, %s in scoring", found.max_tokens, found.max_eval_tokens)
        return found

    @property
    def max_tokens(self) -> int | None:
        """See ``Encoder``."""
        return self.memory.max_tokens

    @property
    def max_eval_tokens(self) -> int | None:
        """See ``Encoder``."""
        return self.memory.max_eval_tokens

    def recompute_layers(self, tokens: int, memory: Plan | None = None) -> int:
        """How many layers of a batch with so many tokens are recomputed; ``memory`` is that of several runs."""
        if self._recompute is None:
            return (memory or self.memory).recompute_layers(tokens)
        return len(self.network.layers) if self._recompute else 0

    def __call__(self, input_ids: Tensor, seq_lens: Sequence[int], first_token: int, training: bool) -> Tensor:
        """See ``Encoder``."""
        rng = self.draw_rng(first_token, training)
        with torch.autocast(input_ids.device.type, enabled=False):  # all tensors have their dtypes already
            if not torch.is_grad_enabled() or not self._parameters:
                self._compile_together(input_ids, seq_lens, rng, trains=False)
                return network.forward(self.network, self._inputs(input_ids, seq_lens, rng), save=False)[0]
            pooled: Tensor = _Step.apply(self, input_ids, seq_lens, rng, *self._parameters)  # type: ignore[no-untyped-call]
            return pooled

    def draw_rng(self, first_token: int, training: bool) -> tuple[int, int] | None:
        """The numbers of ``tensors.DropoutState``; a ``first_token`` of 0 draws a new seed for the step."""
        if not (training and self._has_dropout):
            return None
        if first_token == 0:
            self._seed = int(torch.randint(2**31, ()))
        return self._seed, first_token

    def run(self, input_ids: Tensor, seq_lens: Sequence[int], rng: tuple[int, int] | None) -> "tuple[Tensor, Pass]":
        """The pooled states, and the object that runs their backward pass."""
        self._compile_together(input_ids, seq_lens, rng, trains=True)
        tokens = len(input_ids)
        graphs = self._graphs
        if graphs is not None and tokens <= graphs.max_tokens and self.memory.graphs:
            replay = graphs.forward(input_ids, seq_lens, rng)
            if replay is not None:
                return replay.pooled, replay
        inputs = self._inputs(input_ids, seq_lens, rng)
        recompute_layers = self.recompute_layers(tokens)
        pooled, saved = network.forward(self.network, inputs, save=True, recompute_layers=recompute_layers)
        assert saved is not None
        return pooled, _EagerPass(self.network, inputs, saved)

    def _compile_together(
        self, input_ids: Tensor, seq_lens: Sequence[int], rng: tuple[int, int] | None, trains: bool
    ) -> None:
        """Before the first pass of its kind, compiles all its kernels at once; then nothing."""
        if trains in self._compiled or not kernels.uses_triton(self.network.embedding):
            return
        self._compiled.add(trains)
        inputs = self._inputs(input_ids, seq_lens, rng)

        def first_pass() -> None:
            pooled, saved = network.forward(self.network, inputs, trains, self.recompute_layers(len(input_ids)))
            if saved is not None:
                network.backward(self.network, inputs, saved, torch.zeros_like(pooled))

        kernels.compile_together(first_pass)

    def release(self) -> None:
        """See ``Encoder``: graphs and copies of weights go with this object."""

    def _inputs(self, input_ids: Tensor, seq_lens: Sequence[int], rng: tuple[int, int] | None) -> PackedInputs:
        device = input_ids.device
        rng_tensor = None if rng is None else to_device(torch.tensor(rng), device)
        return PackedInputs(input_ids, PackedLayout.of(seq_lens, self.max_seqlen, device), rng_tensor)


class _EagerPass:
    """A forward pass whose kernels were launched one by one."""

    def __init__(self, network: FusedLayers, inputs: PackedInputs, saved: SavedForward) -> None:
        self._network, self._inputs, self._saved = network, inputs, saved

    def backward(self, grad: Tensor) -> list[Tensor]:
        return network.backward(self._network, self._inputs, self._saved, grad)


Pass = Replay | _EagerPass


class _Step(torch.autograd.Function):
    """Connects the hand-written backward pass to autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        decoder: FusedDecoder,
        input_ids: Tensor,
        seq_lens: Sequence[int],
        rng: tuple[int, int] | None,
        *parameters: Tensor,
    ) -> Tensor:
        pooled, ctx.run = decoder.run(input_ids, seq_lens, rng)
        return pooled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gradients = ctx.run.backward(grads[0])
        ctx.run = None
        return None, None, None, None, *gradients
