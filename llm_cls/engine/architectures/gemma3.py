"""Gemma 3 (Gemma Team, 2025): Gemma 2's layers, norms of query and key instead of soft caps, angles per layer type."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from llm_cls.engine.architectures.base import rotary_table, unsupported_rotary
from llm_cls.engine.architectures.gemma import describe_decoder, one_centred_norm, unsupported_direction
from llm_cls.engine.architectures.gemma2 import describe_four_norms
from llm_cls.engine.spec import DecoderSpec, LayerSpec, RotaryTable


def unsupported_reason(config: PretrainedConfig) -> str:
    """See ``Architecture.unsupported_reason``."""
    types = [config.rope_parameters[layer_type] for layer_type in sorted(set(config.layer_types))]
    return unsupported_direction(config) or next(filter(None, map(unsupported_rotary, types)), "")


def describe(decoder: nn.Module, max_seqlen: int) -> DecoderSpec:
    """See ``Architecture.describe``."""
    network: Any = decoder
    config, device = network.config, network.embed_tokens.weight.device
    tables = {
        layer_type: rotary_table(partial(network.rotary_emb, layer_type=layer_type), max_seqlen, device)
        for layer_type in set(config.layer_types)
    }
    pairs = zip(network.layers, config.layer_types, strict=False)
    layers = [_layer(layer, config, tables[layer_type], max_seqlen) for layer, layer_type in pairs]
    return describe_decoder(network, layers)


def _layer(layer: Any, config: PretrainedConfig, rotary: RotaryTable, max_seqlen: int) -> LayerSpec:
    spec, attention = describe_four_norms(layer, config, rotary, max_seqlen), layer.self_attn
    query_norm, key_norm = one_centred_norm(attention.q_norm), one_centred_norm(attention.k_norm)
    return replace(spec, attention=replace(spec.attention, query_norm=query_norm, key_norm=key_norm))
