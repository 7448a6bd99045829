"""Llama (Touvron et al., 2023), Mistral and Qwen2 without windows: RMS norms, separate q, k and v, a gated MLP."""

from typing import Any

from torch import nn
from transformers import PretrainedConfig

from llm_cls.engine.architectures.base import rms_norm, rotary_table, unsupported_rotary
from llm_cls.engine.spec import AttentionSpec, DecoderSpec, LayerSpec, RotaryTable, Scores


def unsupported_reason(config: PretrainedConfig) -> str:
    """See ``Architecture.unsupported_reason``."""
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    has_window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if layer_types != {"full_attention"} or has_window:
        return "it attends to a sliding window"
    return unsupported_rotary(config.rope_parameters)


def describe(decoder: nn.Module, max_seqlen: int) -> DecoderSpec:
    """See ``Architecture.describe``."""
    network: Any = decoder
    weight = network.embed_tokens.weight.detach()
    rotary = rotary_table(network.rotary_emb, max_seqlen, weight.device)
    layers = [_layer(layer, network.config, rotary) for layer in network.layers]
    return DecoderSpec(weight, layers, rms_norm(network.norm))


def _layer(layer: Any, config: PretrainedConfig, rotary: RotaryTable) -> LayerSpec:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerSpec(
        attention_norm=rms_norm(layer.input_layernorm),
        mlp_norm=rms_norm(layer.post_attention_layernorm),
        qkv=[attention.q_proj, attention.k_proj, attention.v_proj],
        out=[attention.o_proj],
        up=[mlp.gate_proj, mlp.up_proj],
        down=[mlp.down_proj],
        attention=AttentionSpec(
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=attention.head_dim,
            interleaved=False,
            scores=Scores(attention.scaling),
        ),
        rotary=rotary,
        activation=config.hidden_act,
        gated=True,
        parallel_residual=False,
    )
