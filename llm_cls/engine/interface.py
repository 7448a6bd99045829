"""The interface between the classifier and a decoder, however its layers are computed."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

SCORING_TOKENS = 2**15  # at a time where memory use is not known: 64 texts of 512 tokens


class Encoder(Protocol):
    """Computes one hidden state per text of a packed batch."""

    @property
    def layers(self) -> str:
        """How the layers are computed: "fused", "packed", "padded" or "single"."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit on the device at a time in training; None where no limit is known."""

    @property
    def max_eval_tokens(self) -> int | None:
        """The same for scoring, which saves nothing for a backward pass."""

    def __call__(self, input_ids: Tensor, seq_lens: Sequence[int], first_token: int, training: bool) -> Tensor:
        """The hidden state of each text, shape ``(n, hidden_size)``.

        Args:
            input_ids: int64, shape ``(sum(seq_lens),)``.
            seq_lens: Tokens of each text.
            first_token: Tokens of the optimizer step before this batch.
            training: Whether there is dropout.
        """

    def release(self) -> None:
        """Leaves the decoder as it was before; the encoder cannot be used afterwards."""
