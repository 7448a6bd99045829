"""Qwen3-VL (Qwen Team, 2025): its language model is Qwen3's."""

from typing import Any

from torch import nn

from llm_cls.engine.architectures import qwen3
from llm_cls.engine.architectures.base import text_rotary
from llm_cls.engine.architectures.qwen3 import unsupported_reason
from llm_cls.engine.spec import DecoderSpec

__all__ = ["describe", "unsupported_reason"]


def describe(decoder: nn.Module, max_seqlen: int) -> DecoderSpec:
    """See ``Architecture.describe``."""
    network: Any = decoder
    return qwen3.describe(decoder, max_seqlen, text_rotary(network.rotary_emb))
