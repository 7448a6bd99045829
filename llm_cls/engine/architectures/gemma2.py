"""Gemma 2 (Gemma Team, 2024): norms before and after both parts of a layer, soft caps, windows in every other layer."""

from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from llm_cls.engine.architectures.base import rotary_table
from llm_cls.engine.architectures.gemma import describe_decoder, one_centred_norm, unsupported_reason
from llm_cls.engine.architectures.llama import describe_layer
from llm_cls.engine.spec import DecoderSpec, LayerSpec, RotaryTable

__all__ = ["describe", "unsupported_reason"]


def describe(decoder: nn.Module, max_seqlen: int) -> DecoderSpec:
    """See ``Architecture.describe``."""
    network: Any = decoder
    rotary = rotary_table(network.rotary_emb, max_seqlen, network.embed_tokens.weight.device)
    layers = [_layer(layer, network.config, rotary, max_seqlen) for layer in network.layers]
    return describe_decoder(network, layers)


def _layer(layer: Any, config: PretrainedConfig, rotary: RotaryTable, max_seqlen: int) -> LayerSpec:
    spec = describe_four_norms(layer, config, rotary, max_seqlen)
    scores = replace(spec.attention.scores, softcap=layer.self_attn.attn_logit_softcapping)
    return replace(spec, attention=replace(spec.attention, scores=scores))


def describe_four_norms(layer: Any, config: PretrainedConfig, rotary: RotaryTable, max_seqlen: int) -> LayerSpec:
    """A layer with norms before and after attention and MLP."""
    spec = describe_layer(layer, config, rotary, max_seqlen, one_centred_norm, config.hidden_activation)
    return replace(
        spec,
        attention_post_norm=one_centred_norm(layer.post_attention_layernorm),
        mlp_norm=one_centred_norm(layer.pre_feedforward_layernorm),
        mlp_post_norm=one_centred_norm(layer.post_feedforward_layernorm),
    )
