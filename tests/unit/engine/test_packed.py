"""The fast engine against the reference, in float32: logits, loss and every gradient."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaModel

from llm_cls.config.schema import Config, EngineConfig, ModelConfig
from llm_cls.data.batches import Batch
from llm_cls.engine.packed import LeanLoraLinear
from llm_cls.engine.spec import obstacle
from llm_cls.model.classifier import TextClassifier, build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder
from tests.unit.model.test_model import TINY, config, stir

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
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 8, **TINY},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99}
    | dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    "llama-odd-heads": {"model_type": "llama", "num_key_value_heads": 2, "head_dim": 12, **TINY},
    "llama-both-ways": {"model_type": "llama", "num_key_value_heads": 2, "is_causal": False, **TINY},
    "mistral-windowed": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 4, **TINY},
}  # fmt: skip
FUSED = ("neox", "neox-parallel", "neox-linear-rope", "llama", "llama-biased", "qwen2", "mistral")


def build(engine: str, architecture: str, *overrides: str) -> TextClassifier:
    made: Config = config(f"engine={engine}", "data.max_length=64", *overrides)
    model = ModelConfig(name="tiny", weights="random", architecture=ARCHITECTURES[architecture])
    made = made.model_copy(update={"model": model})
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    stir(decoder)
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


@pytest.mark.parametrize("lengths", [[1], [64], [1, 1, 1], [3, 17, 64, 1], [64, 17, 3, 1], [9, 9], [9, 9, 4, 9, 9, 9]])
@pytest.mark.parametrize("targets", ["null", "all-linear"])
@pytest.mark.parametrize("architecture", [*FUSED, "qwen3", "gpt2"])
def test_fast_is_the_reference(architecture: str, targets: str, lengths: list[int]) -> None:
    layers = "fused" if architecture in FUSED else "packed"
    compare(architecture, lengths, layers, "lora.lora_dropout=0", f"lora.target_modules={targets}", "lora.r=4")


@pytest.mark.parametrize("rank", [2, 3, 10])  # with 1 the reference itself is off by 1e-4 in float32
@pytest.mark.parametrize("architecture", ["neox", "llama"])
def test_any_rank_is_fused(architecture: str, rank: int) -> None:
    compare(architecture, [3, 17], "fused", "lora.lora_dropout=0", "lora.target_modules=all-linear", f"lora.r={rank}")


def compare(architecture: str, lengths: list[int], layers: str, *overrides: str) -> None:
    """Logits, loss and all gradients of the fast engine against the reference."""
    some, results = batch(lengths), []
    for engine in ("reference", "fast"):
        model = build(engine, architecture, *overrides)
        assert model.layers == (layers if engine == "fast" else "padded")
        logits = model(some)
        loss = F.cross_entropy(logits, some.labels)
        loss.backward()
        results.append((logits, loss, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
    (logits, loss, gradients), (fast_logits, fast_loss, fast_gradients) = results
    assert close(fast_logits, logits) and close(fast_loss, loss)
    assert gradients.keys() == fast_gradients.keys()
    largest = max(float(gradient.norm()) for gradient in gradients.values() if gradient is not None)
    for name, gradient in gradients.items():
        assert gradient is not None and fast_gradients[name] is not None
        # In a text of one token that of a query is nothing but rounding.
        assert close(fast_gradients[name], gradient, 1e-7 * largest), name


def close(found: torch.Tensor, expected: torch.Tensor, rounding: float = 1e-9) -> bool:
    """Within 1e-5 of the tensor's own norm."""
    return bool((found - expected).norm() <= 1e-5 * expected.norm() + rounding)


def test_the_lean_layer_is_used_and_keeps_the_parameters() -> None:
    model = build("fast", "qwen3", "lora.target_modules=all-linear")
    lean = [m for m in model.modules() if isinstance(m, LeanLoraLinear)]
    assert len(lean) == 2 * 7
    assert set(model.state_dict()) == set(build("reference", "qwen3", "lora.target_modules=all-linear").state_dict())


def test_dropout_of_a_lean_layer_has_its_rate_and_one_mask_in_forward_and_backward() -> None:
    """With one mask the layer is linear in its input: the gradient is the finite difference, exactly."""
    model = build("fast", "qwen3", "lora.lora_dropout=0.25", "lora.r=4")
    layer = next(m for m in model.modules() if isinstance(m, LeanLoraLinear)).double()
    x = torch.randn(64, 32, dtype=torch.float64, requires_grad=True)
    direction, weight = torch.randn_like(x), torch.randn(64, 32, dtype=torch.float64)

    def value(given: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return (layer(given) * weight).sum()

    value(x).backward()
    assert x.grad is not None
    step = 1e-3
    difference = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert difference.item() == pytest.approx((x.grad * direction).sum().item(), rel=1e-7)
    kept = (layer.lora_dropout["default"](torch.ones(200, 1000)) > 0).double().mean().item()
    assert kept == pytest.approx(0.75, abs=0.005)


@pytest.mark.parametrize(
    ("architecture", "overrides", "layers", "lean"),
    [
        ("neox", ["lora.use_dora=true", "lora.lora_dropout=0"], "packed", 0),
        ("neox", ["lora=none"], "fused", 0),
        ("gpt2", ["lora.target_modules=[c_attn]", "lora.lora_dropout=0"], "packed", 0),
        ("qwen3", ["lora.lora_dropout=0"], "packed", 4),
    ],
)
def test_what_cannot_be_fused_falls_back(architecture: str, overrides: list[str], layers: str, lean: int) -> None:
    model = build("fast", architecture, *overrides)
    assert sum(isinstance(m, LeanLoraLinear) for m in model.modules()) == lean
    compare(architecture, [4, 2], layers, *overrides)


def test_heads_that_no_kernel_takes_are_not_fused() -> None:
    compare("llama-odd-heads", [4, 2], "packed", "lora.lora_dropout=0")


def test_a_decoder_that_looks_ahead_is_padded() -> None:
    compare("llama-both-ways", [4, 2], "padded", "lora.lora_dropout=0")


def test_code_of_its_own_under_a_known_name_is_not_fused() -> None:
    class Other(LlamaModel):
        pass

    model = ModelConfig(name="tiny", weights="random", architecture=ARCHITECTURES["llama"])
    architecture = load_architecture(model)
    assert obstacle(LlamaModel(architecture), "last") == ""
    assert "Other" in obstacle(Other(architecture), "last")


def test_a_network_that_was_trained_as_a_whole_is_not_fused_when_it_is_loaded() -> None:
    model = build("reference", "neox", "lora=none")
    decoder: Any = model.decoder
    model.use_fast_engine(decoder, EngineConfig(compile=False), full=True, max_length=64, max_texts=1)
    assert model.layers == "packed"


def test_windowed_attention_is_padded(caplog: pytest.LogCaptureFixture) -> None:
    model = build("fast", "mistral-windowed")
    assert not model.packed and "attends to a window" in caplog.text


def test_companions_do_not_matter() -> None:
    model = build("fast", "llama").eval()
    together = batch([30, 2, 11])
    with torch.no_grad():
        logits, start = model(together), 0
        for i, length in enumerate(together.lengths):
            alone = Batch(together.input_ids[start : start + length], together.labels[:1], [length], [0])
            torch.testing.assert_close(model(alone)[0], logits[i], rtol=1e-5, atol=1e-6)
            start += length
