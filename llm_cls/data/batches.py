"""The texts of each step, as batches without padding.

A training step is a set of ``batch_size`` texts that depends on seed and epoch only. Each device takes its
share of the set and splits it into micro batches, so neither the number of devices nor the size of a micro
batch changes the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from llm_cls.data.tokens import Tokens

# Texts per pass of scoring, which keeps no activations; short passes leave a GPU waiting for launches.
SCORING_TEXTS = {"cpu": 32, "cuda": 128}


@dataclass
class Batch:
    """Texts, concatenated without padding.

    Attributes:
        input_ids: int64, shape ``(total_tokens,)``.
        labels: int64 class indices, shape ``(n,)``; -1 if unknown.
        lengths: Number of tokens of each text; Python integers, so that no shape needs a synchronisation.
        indices: Position of each text in its split.
        first_token: Number of tokens in the micro batches of the same step before this one, on this device.
    """

    input_ids: Tensor
    labels: Tensor
    lengths: list[int]
    indices: list[int]
    first_token: int = 0

    def pin_memory(self) -> "Batch":
        """The batch in pinned memory, for asynchronous copies; called by ``DataLoader``."""
        return replace(self, input_ids=self.input_ids.pin_memory(), labels=self.labels.pin_memory())

    def split(self, max_tokens: int | None) -> "list[Batch]":
        """The same texts as batches of at most ``max_tokens`` tokens; a longer text is a batch by itself."""
        total = sum(self.lengths)
        if max_tokens is None or total <= max_tokens:
            return [self]
        wanted = total / -(-total // max_tokens)  # parts of about the same size
        parts: list[Batch] = []
        first, tokens, before = 0, 0, 0
        for i, length in enumerate(self.lengths):
            if tokens and (tokens + length > max_tokens or tokens >= wanted):
                parts.append(self._part(first, i, before, tokens))
                first, before, tokens = i, before + tokens, 0
            tokens += length
        return [*parts, self._part(first, len(self.lengths), before, tokens)]

    def _part(self, first: int, end: int, before: int, tokens: int) -> "Batch":
        """The texts ``first`` to ``end - 1``, which are ``tokens`` tokens after the first ``before``."""
        return Batch(
            self.input_ids[before : before + tokens],
            self.labels[first:end],
            self.lengths[first:end],
            self.indices[first:end],
            self.first_token + before,
        )


def collate(tokens: Tokens, labels: npt.NDArray[np.int64], indices: Sequence[int] | npt.NDArray[np.int64]) -> Batch:
    """The texts at ``indices`` as one batch."""
    rows = [tokens[i] for i in indices]
    flat = np.concatenate(rows).astype(np.int64)
    return Batch(
        input_ids=torch.from_numpy(flat),
        labels=torch.from_numpy(labels[np.asarray(indices)]),
        lengths=[len(row) for row in rows],
        indices=[int(i) for i in indices],
    )


def step_indices(n_texts: int, batch_size: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """The indices of the texts of every step of an epoch: each text once; the last step may be smaller."""
    order = np.random.default_rng([seed, epoch]).permutation(n_texts)
    return [order[first : first + batch_size] for first in range(0, n_texts, batch_size)]


def balanced_shares(lengths: npt.NDArray[np.int64], n: int) -> list[npt.NDArray[np.int64]]:
    """Shares out texts among ``n`` devices, which wait for the one with most tokens.

    The longest text that is left goes to the device with the fewest tokens (Graham, 1969) that is not full: a device
    with more than its part of the texts would need another micro batch.

    >>> [share.tolist() for share in balanced_shares(np.array([7, 2, 3, 6]), 2)]
    [[0, 1], [2, 3]]

    Args:
        lengths: Tokens of each text.
        n: Number of devices.

    Returns:
        Per device the positions of its texts, ascending.
    """
    shares: list[list[int]] = [[] for _ in range(n)]
    tokens, most = [0] * n, -(-len(lengths) // n)
    for i in np.argsort(-lengths, kind="stable").tolist():
        device = min((j for j in range(n) if len(shares[j]) < most), key=tokens.__getitem__)
        shares[device].append(i)
        tokens[device] += int(lengths[i])
    return [np.array(sorted(share), np.int64) for share in shares]


@dataclass
class Step:
    """The share of one device in an optimizer step.

    Attributes:
        micro_batches: Batches of one forward and backward pass each; empty if the last step has fewer
            texts than there are devices.
        n_texts: Number of texts of the step over all devices.
        weight: Sum of their class weights, by which the loss is divided; their number where there are no weights.
    """

    micro_batches: list[Batch]
    n_texts: int
    weight: float

    def pin_memory(self) -> "Step":
        """See ``Batch.pin_memory``."""
        return replace(self, micro_batches=[batch.pin_memory() for batch in self.micro_batches])


def total_weight(labels: npt.NDArray[np.int64], class_weights: npt.NDArray[np.float64] | None) -> float:
    """Sum of the class weights of texts with these labels; their number where there are no weights."""
    return float(len(labels) if class_weights is None else class_weights[labels].sum())


class TrainSteps(Dataset[Step]):
    """The steps of one epoch on one device."""

    def __init__(
        self,
        tokens: Tokens,
        labels: npt.NDArray[np.int64],
        steps: Sequence[npt.NDArray[np.int64]],
        micro_batch_size: int,
        rank: int,
        world_size: int,
        class_weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Takes the share ``rank`` of ``world_size`` of every step; ``class_weights`` has shape ``(n_labels,)``."""
        self._class_weights = class_weights
        self._tokens, self._labels, self._steps = tokens, labels, steps
        self._lengths = tokens.lengths
        self._micro_batch_size, self._rank, self._world_size = micro_batch_size, rank, world_size

    def __len__(self) -> int:
        """Number of steps of the epoch."""
        return len(self._steps)

    def __getitem__(self, index: int) -> Step:
        """One step."""
        step = self._steps[index]
        share = step[balanced_shares(self._lengths[step], self._world_size)[self._rank]]
        size = self._micro_batch_size
        micro = [collate(self._tokens, self._labels, share[i : i + size]) for i in range(0, len(share), size)]
        for batch, following in pairwise(micro):
            following.first_token = batch.first_token + sum(batch.lengths)
        return Step(micro, len(step), total_weight(self._labels[step], self._class_weights))


class EvalBatches(Dataset[Batch]):
    """The batches of a split for evaluation: each text exactly once, on exactly one device.

    Texts are sorted by length, longest first: padded batches waste little, and the first batch needs the most memory.
    """

    def __init__(
        self, tokens: Tokens, labels: npt.NDArray[np.int64], batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Takes every ``world_size``-th text, starting at ``rank``."""
        order = np.argsort(-tokens.lengths, kind="stable").astype(np.int64)[rank::world_size]
        self._tokens, self._labels = tokens, labels
        self._batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]

    def __len__(self) -> int:
        """Number of batches on this device."""
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        """One batch."""
        return collate(self._tokens, self._labels, self._batches[index])
