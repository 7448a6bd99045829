"""Qwen2-VL and Qwen2.5-VL (Qwen Team, 2024, 2025): their language models are Qwen2's."""

from typing import Any

from torch import nn

from llm_cls.engine.architectures import llama
from llm_cls.engine.architectures.base import text_rotary
from llm_cls.engine.architectures.llama import unsupported_reason
from llm_cls.engine.spec import DecoderSpec

__all__ = ["describe", "unsupported_reason"]


def describe(decoder: nn.Module, max_seqlen: int) -> DecoderSpec:
    """See ``Architecture.describe``."""
    network: Any = decoder
    return llama.describe(decoder, max_seqlen, text_rotary(network.rotary_emb))
