"""Padded batches, and from one hidden state per token to one per text."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llm_cls.engine.interface import SCORING_TOKENS
from llm_cls.engine.probe import states_one_by_one


class PaddedDecoder:
    """Runs the layers of ``transformers`` on padded batches, as the published recipe does; an ``engine`` ``Encoder``.

    Attributes:
        layers: "padded".
        max_tokens: None: memory use is not known.
        max_eval_tokens: ``SCORING_TOKENS``.
    """

    layers = "padded"
    max_tokens = None
    max_eval_tokens = SCORING_TOKENS

    def __init__(self, network: nn.Module, pooling: str) -> None:
        """Takes the decoder, with or without an adapter around it, and ``pool``'s rule."""
        self._network, self._pooling = network, pooling

    def __call__(self, input_ids: Tensor, seq_lens: Sequence[int], first_token: int, training: bool) -> Tensor:
        """See ``Encoder``."""
        padded, attention_mask = pad(input_ids, seq_lens)
        hidden = self._network(input_ids=padded, attention_mask=attention_mask).last_hidden_state
        return pool(hidden, seq_lens, self._pooling)

    def release(self) -> None:
        """See ``Encoder``: there is nothing to undo."""


class SingleDecoder:
    """Runs the layers of ``transformers`` on one text at a time; an ``engine`` ``Encoder``.

    For architectures whose hidden states depend on the padding.

    Attributes:
        layers: "single".
        max_tokens: 1, so that each text is a micro batch of its own.
        max_eval_tokens: 1.
    """

    layers = "single"
    max_tokens = 1
    max_eval_tokens = 1

    def __init__(self, network: nn.Module, pooling: str) -> None:
        """Takes the decoder, with or without an adapter around it, and ``pool``'s rule."""
        self._network, self._pooling = network, pooling

    def __call__(self, input_ids: Tensor, seq_lens: Sequence[int], first_token: int, training: bool) -> Tensor:
        """See ``Encoder``."""
        return states_one_by_one(self._network, input_ids, tuple(seq_lens), self._pooling)

    def release(self) -> None:
        """See ``Encoder``: there is nothing to undo."""


def pad(input_ids: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The texts of a packed batch as the rows of a padded one.

    Padding is on the right and its id is 0. Only the mask, never an id, tells what is padding, because some models'
    pad token is their EOS and others have none.

    >>> pad(torch.tensor([5, 6, 7]), [2, 1])
    (tensor([[5, 6],
            [7, 0]]), tensor([[1, 1],
            [1, 0]]))

    Args:
        input_ids: Shape ``(sum(lengths),)``.
        lengths: Tokens of each text.

    Returns:
        ``(input_ids, attention_mask)``, each int64 of shape ``(n, max(lengths))``.
    """
    padded = torch.nn.utils.rnn.pad_sequence(list(input_ids.split(list(lengths))), batch_first=True)
    columns = torch.arange(padded.shape[1], device=input_ids.device)
    mask = columns < torch.tensor(lengths, device=input_ids.device)[:, None]
    return padded, mask.long()


def pool(hidden: Tensor, lengths: Sequence[int], pooling: str) -> Tensor:
    """Each text's first or last hidden state.

    Args:
        hidden: Shape ``(n, seq_len, hidden_size)``, padded on the right.
        lengths: Real tokens of each text.
        pooling: "last" or "first".

    Returns:
        Shape ``(n, hidden_size)``.
    """
    if pooling == "first":
        return hidden[:, 0]
    rows = torch.arange(len(lengths), device=hidden.device)
    return hidden[rows, torch.tensor(lengths, device=hidden.device) - 1]
