"""Short and long texts in separate batches, for rotary embeddings that depend on the longest text of a batch.

With longrope (Ding et al., 2024) a text of at most ``original_max_position_embeddings`` tokens has other angles than a
longer one. transformers chooses them for the batch as a whole, so that a text's result would depend on its companions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from llm_cls.engine.interface import Encoder


class LengthGroups:
    """Another ``Encoder``, called for the short and the long texts of a batch in turn.

    Attributes:
        longest_short: Tokens of a short text at most.
    """

    def __init__(self, encoder: Encoder, longest_short: int) -> None:
        """Wraps ``encoder``."""
        self._encoder, self.longest_short = encoder, longest_short

    @property
    def layers(self) -> str:
        """See ``Encoder``."""
        return self._encoder.layers

    @property
    def max_tokens(self) -> int | None:
        """See ``Encoder``."""
        return self._encoder.max_tokens

    @property
    def max_eval_tokens(self) -> int | None:
        """See ``Encoder``."""
        return self._encoder.max_eval_tokens

    def __call__(self, input_ids: Tensor, seq_lens: Sequence[int], first_token: int, training: bool) -> Tensor:
        """See ``Encoder``."""
        is_long = [length > self.longest_short for length in seq_lens]
        if len(set(is_long)) == 1:
            return self._encoder(input_ids, seq_lens, first_token, training)
        texts = input_ids.split(list(seq_lens))
        order, states = [], []
        for wanted in (False, True):
            group = [i for i, long in enumerate(is_long) if long == wanted]
            lengths = [seq_lens[i] for i in group]
            states.append(self._encoder(torch.cat([texts[i] for i in group]), lengths, first_token, training))
            order += group
            first_token += sum(lengths)
        return torch.cat(states)[torch.tensor(order, device=input_ids.device).argsort()]

    def release(self) -> None:
        """See ``Encoder``."""
        self._encoder.release()


def grouped(encoder: Encoder, config: PretrainedConfig, max_seqlen: int) -> Encoder:
    """``encoder``, wrapped where a text's angles would depend on the others of its batch.

    Args:
        encoder: Of packed or padded batches.
        config: Of the network.
        max_seqlen: Tokens per text at most.
    """
    parameters: Any = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]  # one per type of layer
    limits = [
        part["original_max_position_embeddings"]
        for part in (nested or [parameters])
        if part.get("rope_type") == "longrope"
    ]
    limit = min(limits, default=max_seqlen)
    return LengthGroups(encoder, limit) if limit < max_seqlen else encoder
