"""Where the texts of a packed batch lie: one after the other, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedLayout:
    """Where the texts of a packed batch lie.

    Attributes:
        position_ids: int32, shape ``(tokens,)``: each token's place in its text.
        cu_seqlens: int32, shape ``(n + 1,)``: where each text begins, and where the last one ends.
        last_tokens: int64, shape ``(n,)``: the index of each text's last token.
        seq_lens: Tokens of each text; used where there is no variable-length kernel.
        max_seqlen: Upper bound of ``seq_lens``.
    """

    position_ids: Tensor
    cu_seqlens: Tensor
    last_tokens: Tensor
    seq_lens: Sequence[int]
    max_seqlen: int

    @classmethod
    def of(cls, seq_lens: Sequence[int], max_seqlen: int, device: torch.device) -> "PackedLayout":
        """The layout of texts of these lengths, copied to ``device`` without waiting."""
        position_ids, cu_seqlens = packed_positions(seq_lens)
        parts = position_ids.int(), cu_seqlens.int(), cu_seqlens[1:] - 1
        position_ids, cu_seqlens, last_tokens = (to_device(part, device) for part in parts)
        return cls(position_ids, cu_seqlens, last_tokens, tuple(seq_lens), max_seqlen)


def packed_positions(seq_lens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The positions and boundaries of texts of these lengths.

    >>> packed_positions([2, 1])
    (tensor([0, 1, 0]), tensor([0, 2, 3]))

    Returns:
        ``(position_ids, cu_seqlens)`` as in ``PackedLayout``, but int64 and on the CPU.
    """
    cu_seqlens = torch.tensor([0, *seq_lens]).cumsum(0)
    return torch.arange(int(cu_seqlens[-1])) - cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff()), cu_seqlens


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """A copy on ``device``; it goes through pinned memory, so that the host does not wait for it."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers
