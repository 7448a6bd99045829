"""Qwen3 (Yang et al., 2025): as Qwen2, with an RMS norm of each query and key before it is rotated."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from llm_cls.engine.architectures import llama
from llm_cls.engine.architectures.base import rms_norm
from llm_cls.engine.architectures.llama import unsupported_reason
from llm_cls.engine.spec import DecoderSpec

__all__ = ["describe", "unsupported_reason"]


def describe(decoder: nn.Module, max_seqlen: int, angles: Callable[..., Any] | None = None) -> DecoderSpec:
    """See ``Architecture.describe`` and ``llama.describe``."""
    network: Any = decoder
    spec = llama.describe(decoder, max_seqlen, angles)
    layers = []
    for layer, found in zip(network.layers, spec.layers, strict=True):
        query_norm, key_norm = rms_norm(layer.self_attn.q_norm), rms_norm(layer.self_attn.k_norm)
        layers.append(replace(found, attention=replace(found.attention, query_norm=query_norm, key_norm=key_norm)))
    return replace(spec, layers=layers)
