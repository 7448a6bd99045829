"""Llama (Touvron et al., 2023), Mistral and Qwen2: RMS norms, separate q, k and v, a gated MLP, perhaps windows."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from llm_cls.engine.architectures.base import reachable_window, rms_norm, rotary_table, unsupported_rotary
from llm_cls.engine.spec import AttentionSpec, DecoderSpec, LayerSpec, RotaryTable, Scores
from llm_cls.engine.tensors import Norm


def unsupported_reason(config: PretrainedConfig) -> str:
    """See ``Architecture.unsupported_reason``."""
    return unsupported_rotary(config.rope_parameters)


def describe(decoder: nn.Module, max_seqlen: int, angles: Callable[..., Any] | None = None) -> DecoderSpec:
    """See ``Architecture.describe``; ``angles`` takes the place of the network's own rotary module."""
    network: Any = decoder
    weight = network.embed_tokens.weight.detach()
    rotary = rotary_table(angles or network.rotary_emb, max_seqlen, weight.device)
    layers = [describe_layer(layer, network.config, rotary, max_seqlen) for layer in network.layers]
    return DecoderSpec(weight, layers, rms_norm(network.norm))


def describe_layer(
    layer: Any,
    config: PretrainedConfig,
    rotary: RotaryTable,
    max_seqlen: int,
    norm: Callable[[nn.Module], Norm] = rms_norm,
    activation: str | None = None,
) -> LayerSpec:
    """A layer whose parts have the names of Llama's, as in many families.

    Args:
        layer: The layer.
        config: Of the network.
        rotary: Its angles.
        max_seqlen: Tokens per text at most.
        norm: Reads a norm of this family.
        activation: Of the MLP, where the configuration calls it by another name.
    """
    attention, mlp = layer.self_attn, layer.mlp
    # Qwen2's layers differ in their windows; in Mistral the configuration's holds for all of them.
    window = attention.sliding_window if hasattr(attention, "sliding_window") else _window_of_all(config)
    return LayerSpec(
        attention_norm=norm(layer.input_layernorm),
        mlp_norm=norm(layer.post_attention_layernorm),
        qkv=[attention.q_proj, attention.k_proj, attention.v_proj],
        out=[attention.o_proj],
        up=[mlp.gate_proj, mlp.up_proj],
        down=[mlp.down_proj],
        attention=AttentionSpec(
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=attention.head_dim,
            interleaved=False,
            scores=Scores(attention.scaling, reachable_window(window, max_seqlen)),
        ),
        rotary=rotary,
        activation=activation or config.hidden_act,
        gated=True,
        parallel_residual=False,
    )


def _window_of_all(config: PretrainedConfig) -> int | None:
    return config.sliding_window if config.model_type == "mistral" else None
