"""A small configuration of every causal architecture of the installed transformers: its defaults, shrunk by name."""

from typing import Any

from transformers import CONFIG_MAPPING, MODEL_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 99
_LAYERS = 4  # enough for the patterns of hybrid architectures

# The sizes that configurations have in common, whatever their architecture calls them.
_SIZES: dict[str, Any] = (
    dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY)
    | dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_dim", "emb_dim", "lru_width", "embedding_size"), 32)
    | dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"), _LAYERS)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4)
    | dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2)
    | dict.fromkeys(("head_dim", "kv_channels", "dim_head", "swa_head_dim", "global_head_dim", "d_head"), 8)
    | dict.fromkeys(("intermediate_size", "ffn_dim", "dff", "dim_ff", "ffn_hidden_size", "d_inner"), 64)
    | dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 32)
    | dict.fromkeys(("shared_intermediate_size", "dense_intermediate_size", "intermediate_size_mlp"), 32)
    | dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4)
    | dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k"), 2)
    | dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups"), 1)
    | dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8)
    | dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16)
    | dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8)
    | dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "swa_num_attention_heads"), 4)
    | dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16)
    | dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 4)
    | dict.fromkeys(("chunk_size", "mamba_chunk_size"), 8)
    | dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 4)
    | dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8)
    | dict.fromkeys(("index_head_dim", "index_n_heads"), 8)
    | dict.fromkeys(("sliding_window", "sliding_window_size", "window_size", "attention_window_size"), 4)
    | dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 128)
    | {"sliding_window_pattern": 2, "first_k_dense_replace": 1, "index_topk": 4, "query_pre_attn_scalar": 8}
    | {"initializer_range": 0.1}  # of well-conditioned weights: norms of small sums would make rounding large
    | {"qk_head_dim": 16, "rotary_dim": 4, "attention_hidden_size": 32, "hidden_size_per_layer_input": 8}
)  # fmt: skip

# What a name alone does not tell.
_PART = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4} | {
    "intermediate_size": 64, "hidden_size_global": 32,
}  # fmt: skip
_WIDE = {"attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4}
_LATENT = {"num_key_value_heads": 4, "head_dim": 8}  # attention from a low-rank latent has no grouped heads
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "blt": dict.fromkeys(("patcher_config", "encoder_config", "decoder_config", "global_config"), _PART)
    | {"encoder_hash_byte_group_vocab": 50, "vocab_size": 260},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "rope_parameters": {
            layers: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
            for layers in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 1,
        "intermediate_size": [64] * 4, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "gemma3_text": {"sliding_window_pattern": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "inkling_text": {"layer_types": ["hybrid_sliding", "hybrid"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"head_dim": 16},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {
        "moe_shared_expert_intermediate_size": 32,
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
    },
    "qwen4_exp_text": {
        "hc_lowrank": 8, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16]},
    "roc_bert": {
        "pronunciation_embed_dim": 8, "pronunciation_vocab_size": 9, "shape_embed_dim": 8, "shape_vocab_size": 9,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, **_WIDE},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "adapter_rank": 4, **_WIDE},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip


def decoder_kinds() -> list[str]:
    """The ``model_type`` of each causal language model of text that is neither an encoder-decoder nor multimodal."""
    return [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if _is_decoder_of_text(CONFIG_MAPPING[kind])]


def _is_decoder_of_text(config_class: type[PretrainedConfig]) -> bool:
    composed = {"text_config", "vision_config", "text_encoder", "audio_encoder_config"} & set(config_class.sub_configs)
    encoder_decoder = getattr(config_class, "is_encoder_decoder", False)
    return config_class in MODEL_MAPPING and not composed and not encoder_decoder


def small_architecture(kind: str) -> dict[str, Any]:
    """``model.architecture`` of a small network with random weights.

    Dropout of the network itself is 0, because its masks depend on the shape of a batch.
    """
    defaults = CONFIG_MAPPING[kind]().to_dict()
    sizes = {key: value for key, value in _SIZES.items() if isinstance(defaults.get(key), int | float)}
    tokens = {key: 2 for key, value in defaults.items() if key.endswith("_token_id") and isinstance(value, int)}
    dropout = {
        key: 0.0 for key, value in defaults.items() if isinstance(value, float) and ("drop" in key or "jitter" in key)
    }
    latent = _LATENT if "kv_lora_rank" in defaults else {}
    return {"model_type": kind, **sizes, **tokens, **dropout, **latent, **_EXCEPTIONS.get(kind, {})}
