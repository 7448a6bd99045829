"""GPT-NeoX (Black et al., 2022): layer norms, one interleaved qkv layer, no gate, sequential or parallel residual."""

from typing import Any

from torch import nn
from transformers import PretrainedConfig

from llm_cls.engine.architectures.base import layer_norm, rotary_table, unsupported_rotary
from llm_cls.engine.spec import AttentionSpec, DecoderSpec, LayerSpec, RotaryTable, Scores


def unsupported_reason(config: PretrainedConfig) -> str:
    """See ``Architecture.unsupported_reason``."""
    return unsupported_rotary(config.rope_parameters)


def describe(decoder: nn.Module, max_seqlen: int) -> DecoderSpec:
    """See ``Architecture.describe``."""
    network: Any = decoder
    weight = network.embed_in.weight.detach()
    rotary = rotary_table(network.rotary_emb, max_seqlen, weight.device)
    layers = [_layer(layer, network.config, rotary) for layer in network.layers]
    return DecoderSpec(weight, layers, layer_norm(network.final_layer_norm))


def _layer(layer: Any, config: PretrainedConfig, rotary: RotaryTable) -> LayerSpec:
    attention, mlp, heads = layer.attention, layer.mlp, config.num_attention_heads
    return LayerSpec(
        attention_norm=layer_norm(layer.input_layernorm),
        mlp_norm=layer_norm(layer.post_attention_layernorm),
        qkv=[attention.query_key_value],
        out=[attention.dense],
        up=[mlp.dense_h_to_4h],
        down=[mlp.dense_4h_to_h],
        attention=AttentionSpec(heads, heads, attention.head_size, interleaved=True, scores=Scores(attention.scaling)),
        rotary=rotary,
        activation=config.hidden_act,
        gated=False,
        parallel_residual=config.use_parallel_residual,
    )
