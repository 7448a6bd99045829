"""Small networks of every kind, and the comparison of an engine with the layers of ``transformers`` under autograd."""

from typing import Any

import torch
from torch.nn import functional as F

from llm_cls.config.schema import Config, ModelConfig
from llm_cls.data.batches import Batch
from llm_cls.engine.runner import FusedDecoder
from llm_cls.model.classifier import TextClassifier, build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder
from tests.unit.model.test_model import TINY, config, randomize_vectors

YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4, "beta_fast": 4.0,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
# Gemma's weights are wider than those of the others: norms of small sums make the reference itself inexact.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "neox": {"model_type": "gpt_neox", "use_parallel_residual": False, "rotary_pct": 1.0, **TINY},
    "neox-parallel": {"model_type": "gpt_neox", "use_parallel_residual": True, "rotary_pct": 0.25, **TINY},
    "neox-linear-rope": {
        "model_type": "gpt_neox", "attention_bias": False, **TINY,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    },
    "llama": {"model_type": "llama", "num_key_value_heads": 2, **TINY},
    "llama-biased": {
        "model_type": "llama", "num_key_value_heads": 4, "head_dim": 16, "hidden_act": "gelu", "attention_bias": True,
        "mlp_bias": True, **TINY,
        "rope_parameters": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16, "rope_theta": 1e4,
        },
    },
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, **TINY},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None, **TINY},
    "llama-yarn": {"model_type": "llama", "num_key_value_heads": 2, **TINY, "rope_parameters": YARN},
    "qwen2-windowed": {
        "model_type": "qwen2", "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 5,
        "max_window_layers": 1, **TINY,
    },
    "mistral-windowed": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 4, **TINY},
    "mistral-wide-window": {"model_type": "mistral", "num_key_value_heads": 1, "sliding_window": 64, **TINY},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16, **TINY},
    "qwen3-windowed": {
        "model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 8, "use_sliding_window": True,
        "sliding_window": 7, "max_window_layers": 1, "attention_bias": True, "rope_parameters": YARN, **TINY,
    },
    "qwen2-vl": {"model_type": "qwen2_5_vl_text", "num_key_value_heads": 2, "rope_parameters": MROPE, **TINY},
    "qwen3-vl": {
        "model_type": "qwen3_vl_text", "num_key_value_heads": 2, "head_dim": 16, **TINY,
        "rope_parameters": {**MROPE, "mrope_section": [4, 2, 2]},
    },
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.1, **TINY},
    "gemma2": {
        "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 24,
        "sliding_window": 6, "attn_logit_softcapping": 0.2, "initializer_range": 0.1, **TINY,
    },
    "gemma2-uncapped": {
        "model_type": "gemma2", "num_key_value_heads": 4, "head_dim": 8, "sliding_window": 64,
        "attn_logit_softcapping": None, "initializer_range": 0.1, **TINY,
    },
    "gemma3": {
        "model_type": "gemma3_text", "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 24,
        "sliding_window": 6, "sliding_window_pattern": 2, "initializer_range": 0.1, **TINY,
    },
    "gemma3-local-last": {
        "model_type": "gemma3_text", "num_key_value_heads": 2, "head_dim": 8, "attention_bias": True,
        "sliding_window": 3, "layer_types": ["full_attention", "sliding_attention"], "initializer_range": 0.1, **TINY,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "phi3": {"model_type": "phi3", "num_key_value_heads": 2, "sliding_window": None, "pad_token_id": 0, **TINY},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99}
    | dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    "llama-odd-heads": {"model_type": "llama", "num_key_value_heads": 2, "head_dim": 12, **TINY},
    "llama-both-ways": {"model_type": "llama", "num_key_value_heads": 2, "is_causal": False, **TINY},
    "phi3-windowed": {"model_type": "phi3", "num_key_value_heads": 2, "sliding_window": 4, "pad_token_id": 0, **TINY},
}  # fmt: skip
QWEN3 = ("qwen3", "qwen3-windowed")
IMAGES = ("qwen2-vl", "qwen3-vl")  # the language models of networks that also read images
GEMMA = ("gemma", "gemma2", "gemma2-uncapped", "gemma3", "gemma3-local-last")
WINDOWED = ("qwen2-windowed", "mistral-windowed", "mistral-wide-window")
FUSED = (
    *("neox", "neox-parallel", "neox-linear-rope", "llama", "llama-biased", "llama-yarn", "qwen2", "mistral"),
    *(*WINDOWED, *QWEN3, *IMAGES, *GEMMA),
)


def build(engine: str, architecture: str, *overrides: str) -> TextClassifier:
    made: Config = config(f"engine={engine}", "data.max_length=64", *overrides)
    model = ModelConfig(name="tiny", weights="random", architecture=ARCHITECTURES[architecture])
    made = made.model_copy(update={"model": model})
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    randomize_vectors(decoder)
    classifier = build_classifier(decoder, made, 5, gradient_checkpointing=False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in classifier.named_parameters():
        if "lora_B" in name:  # as after some training: at the start the adapter is the identity
            parameter.data.normal_(std=0.1, generator=generator)
        if "magnitude" in name:
            parameter.data.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
    return classifier.train()


def batch(lengths: list[int]) -> Batch:
    ids = torch.randint(4, 99, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    return Batch(ids, torch.arange(len(lengths)) % 5, lengths, list(range(len(lengths))))


def compare(architecture: str, batches: list[list[int]], layers: str, *overrides: str) -> None:
    """Logits, loss and all gradients of the fast engine against the reference, on texts of the given lengths.

    On some processors the rounding of the reference itself exceeds the tolerance; then the reference is computed in
    float64.
    """
    reference, fast = (build(engine, architecture, *overrides) for engine in ("reference", "fast"))
    assert [reference.encoder.layers, fast.encoder.layers] == ["padded", layers]
    for lengths in batches:
        found = _computed(fast, lengths)
        if differing := _differences(found, _computed(reference, lengths)):
            exact = build("reference", architecture, *overrides)
            exact.decoder.double()
            assert not _differences(found, _computed(exact, lengths)), (lengths, differing)


Computed = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]


def _computed(model: TextClassifier, lengths: list[int]) -> Computed:
    """Logits, loss and the gradients by parameter."""
    some = batch(lengths)
    model.zero_grad()
    logits = model(some)
    loss = F.cross_entropy(logits, some.labels)
    loss.backward()
    return logits, loss, {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}


def _differences(found: Computed, expected: Computed) -> list[str]:
    names = [name for name, i in (("logits", 0), ("loss", 1)) if not close(found[i], expected[i])]
    assert found[2].keys() == expected[2].keys()
    largest = max(float(gradient.norm()) for gradient in expected[2].values())
    # In a text of one token the gradient of a query is nothing but rounding, which a norm of queries enlarges.
    return names + [n for n, gradient in expected[2].items() if not close(found[2][n], gradient, 4e-7 * largest)]


def close(found: torch.Tensor, expected: torch.Tensor, rounding: float = 1e-9) -> bool:
    """Within 3e-6 of the tensor's own norm."""
    return bool((found - expected).norm() <= 3e-6 * expected.norm() + rounding)


LENGTHS = [3, 17, 64, 1]


def fused(model: TextClassifier) -> FusedDecoder:
    assert isinstance(model.encoder, FusedDecoder)
    return model.encoder


def loss(model: TextClassifier) -> torch.Tensor:
    torch.manual_seed(5)  # from which the step's dropout is drawn
    some = batch(LENGTHS)
    return F.cross_entropy(model(some).double(), some.labels)


def gradients(model: TextClassifier) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
