"""Gemma (Gemma Team, 2024): Llama's layers with norms whose factor is ``1 + weight``, and scaled embeddings."""

from typing import Any

from torch import nn
from transformers import PretrainedConfig

from llm_cls.engine.architectures.base import rotary_table, unsupported_rotary
from llm_cls.engine.architectures.llama import describe_layer
from llm_cls.engine.spec import DecoderSpec, LayerSpec
from llm_cls.engine.tensors import Norm


def unsupported_reason(config: PretrainedConfig) -> str:
    """See ``Architecture.unsupported_reason``."""
    return unsupported_direction(config) or unsupported_rotary(config.rope_parameters)


def describe(decoder: nn.Module, max_seqlen: int) -> DecoderSpec:
    """See ``Architecture.describe``."""
    network: Any = decoder
    rotary = rotary_table(network.rotary_emb, max_seqlen, network.embed_tokens.weight.device)
    layers = [describe_layer(layer, network.config, rotary, max_seqlen, one_centred_norm) for layer in network.layers]
    return describe_decoder(network, layers)


def unsupported_direction(config: PretrainedConfig) -> str:
    """Why a decoder of this configuration is not causal; empty if it is."""
    bidirectional = getattr(config, "use_bidirectional_attention", False)
    return "its attention is not causal" if bidirectional else ""


def one_centred_norm(module: nn.Module) -> Norm:
    """The parameters of a root-mean-square norm whose factor is ``1 + weight``, added in float32."""
    layer: Any = module
    return Norm(1.0 + layer.weight.detach().float(), None, layer.eps, rms=True)


def describe_decoder(network: Any, layers: list[LayerSpec]) -> DecoderSpec:
    """The whole decoder, whose embeddings are multiplied by a factor in their own dtype."""
    embedding = network.embed_tokens
    weight = embedding.weight.detach()
    scale = embedding.embed_scale.to(weight.dtype).item()
    return DecoderSpec(weight, layers, one_centred_norm(network.norm), scale)
