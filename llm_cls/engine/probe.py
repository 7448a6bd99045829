"""What a network makes of a few short texts, each by itself: its states are what every way of batching must give."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from llm_cls.engine.interface import Encoder
from llm_cls.errors import first_line, lacks_memory

FAILURES = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, NotImplementedError)
_FIRST_ID = 4  # the ids before it are often special tokens


@dataclass(frozen=True)
class Probe:
    """A few texts with their hidden states, each from a forward pass of its own: without padding and mask.

    Attributes:
        ids: int64, shape ``(tokens,)``.
        seq_lens: Tokens of each text.
        states: float32, shape ``(n, hidden_size)``.
        pooling: Which token's state it is.
        tolerance: By how much the states may differ, as a norm.
    """

    ids: Tensor
    seq_lens: tuple[int, ...]
    pooling: str
    states: Tensor
    tolerance: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, network: nn.Module, pooling: str, max_seqlen: int) -> Self:
        """Runs ``network``, with or without an adapter, in the mode that it is in.

        One of the texts is as long as a text may be, because windows and selected keys show in long texts only. In
        float32 a difference is compared with what the other tokens of a text contribute to its state, because in a
        network with random weights that is little beside the state as a whole.

        Args:
            network: The decoder.
            pooling: "last" or "first": the token whose state is taken.
            max_seqlen: Tokens per text at most.

        Raises:
            Exception: What ``network`` raises on a single text.
        """
        weight, config = next(network.parameters()), cast(Any, network).config
        seq_lens = (max_seqlen, 1, -(-max_seqlen // 2))
        n_ids = min(int(getattr(config, "vocab_size", 0) or 16), 1000) - _FIRST_ID
        ids = torch.randint(n_ids, (sum(seq_lens),), generator=torch.Generator().manual_seed(0)).to(weight.device)
        with _exact(weight.device):
            states = states_one_by_one(network, ids + _FIRST_ID, seq_lens, pooling).float()
            if weight.dtype == torch.float32:
                others = _with_other_context(ids, seq_lens, pooling, n_ids) + _FIRST_ID
                context = states_one_by_one(network, others, seq_lens, pooling) - states
                tolerance = 1e-5 * states.norm() + 1e-3 * context.norm()
            else:
                tolerance = 5e-2 * states.norm()
        return cls(ids + _FIRST_ID, seq_lens, pooling, states, tolerance)

    @torch.no_grad()
    def disagreement(self, encoder: Encoder) -> str:
        """What ``encoder`` makes of the same texts as one batch, if that is something else; empty otherwise."""
        with _exact(self.ids.device):
            try:
                found = encoder(self.ids, self.seq_lens, 0, training=False).float()
            except FAILURES as failure:
                if lacks_memory(failure):
                    raise
                return f"{type(failure).__name__}: {first_line(failure)}"
        return self.compare(found)

    @torch.no_grad()
    def attempt(self, network: nn.Module) -> None:
        """Runs ``network`` on one of the texts, as far as only an error matters."""
        length = self.seq_lens[-1]
        with _exact(self.ids.device):
            states_one_by_one(network, self.ids[-length:], (length,), self.pooling)

    @torch.no_grad()
    def change(self, network: nn.Module) -> str:
        """What ``network``, changed since, makes of the same texts, if that is something else; empty otherwise."""
        with _exact(self.ids.device):
            return self.compare(states_one_by_one(network, self.ids, self.seq_lens, self.pooling))

    def compare(self, found: Tensor) -> str:
        """By how much other states of the same texts differ; empty where that is rounding."""
        difference = (found.float() - self.states).norm()
        if difference <= self.tolerance:
            return ""
        return f"the hidden states change by {float(difference / self.states.norm()):.1e}"


def states_one_by_one(network: nn.Module, ids: Tensor, seq_lens: tuple[int, ...], pooling: str) -> Tensor:
    """The state of each text from a forward pass of its own, shape ``(n, hidden_size)``."""
    token = 0 if pooling == "first" else -1
    texts = ids.split(list(seq_lens))
    return torch.stack([network(input_ids=text[None]).last_hidden_state[0, token] for text in texts])


@torch.no_grad()
def state_size(network: nn.Module) -> int:
    """Entries of a hidden state: some networks end with a projection, so that it is not their ``hidden_size``."""
    device = next(network.parameters()).device
    with _exact(device):
        return states_one_by_one(network, torch.full((1,), _FIRST_ID, device=device), (1,), "last").shape[-1]


def _with_other_context(ids: Tensor, seq_lens: tuple[int, ...], pooling: str, n_ids: int) -> Tensor:
    """The texts with other tokens, except those whose states are compared."""
    lengths = torch.tensor(seq_lens, device=ids.device)
    ends = lengths.cumsum(0)
    pooled = ends - lengths if pooling == "first" else ends - 1
    other = (ids + 1) % n_ids
    other[pooled] = ids[pooled]
    return other


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Float32 products in full precision, and no trace in the random numbers of the run."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
