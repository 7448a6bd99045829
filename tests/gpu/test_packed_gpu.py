"""The fast engine on a GPU: float32 against the reference, bf16 against float64, compiled and not."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from llm_cls.config.schema import ModelConfig
from llm_cls.data.batches import Batch
from llm_cls.model.classifier import TextClassifier, build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder
from tests.unit.model.test_model import config, randomize_vectors

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SIZE = {
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "vocab_size": 999,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "neox": {"model_type": "gpt_neox", "use_parallel_residual": False, "rotary_pct": 1.0, **SIZE},
    "neox-parallel": {"model_type": "gpt_neox", "use_parallel_residual": True, "rotary_pct": 0.25, **SIZE},
    "llama": {"model_type": "llama", "num_key_value_heads": 2, **SIZE},
    "mistral-windowed": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 40, **SIZE},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 128, **SIZE},
    "gemma2": {
        "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 256, "sliding_window": 40,
        "attn_logit_softcapping": 1.0, "initializer_range": 0.05, **SIZE,
    },
    "gemma3": {
        "model_type": "gemma3_text", "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 40,
        "sliding_window_pattern": 2, "initializer_range": 0.05, **SIZE,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 256, "n_layer": 3, "n_head": 4, "vocab_size": 999}
    | dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
}  # fmt: skip
LENGTHS = [3, 200, 17, 512, 1, 64]


def build(
    engine: str, architecture: str, dtype: torch.dtype, compiled: bool, *overrides: str, seed: int = 1
) -> TextClassifier:
    made = config(
        f"engine={engine}", "lora.target_modules=all-linear", "lora.lora_dropout=0",
        *overrides,
    )  # fmt: skip
    model = ModelConfig(name="tiny", weights="random", architecture=ARCHITECTURES[architecture])
    made = made.model_copy(update={"model": model})
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    randomize_vectors(decoder)
    decoder = decoder.to(torch.bfloat16).to(dtype).to("cuda")  # the same rounded weights in every type
    classifier = build_classifier(
        decoder, made, 5, gradient_checkpointing=False, compiled=compiled and engine == "fast"
    )
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in classifier.named_parameters():
        if "lora_" in name or name == "head.weight":
            drawn = torch.empty(parameter.shape).normal_(std=0.05, generator=generator)
            parameter.data = drawn.to("cuda", torch.float64 if dtype == torch.float64 else torch.float32)
    return classifier.train()


def run(model: TextClassifier, autocast: bool) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 999, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0)).cuda()
    batch = Batch(ids, (torch.arange(len(LENGTHS)) % 5).cuda(), LENGTHS, list(range(len(LENGTHS))))
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        logits = model(batch)
    F.cross_entropy(logits, batch.labels).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return found | {"logits": logits.detach()}


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_is_the_reference(architecture: str, compiled: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    expected = run(build("reference", architecture, torch.float32, False), False)
    model = build("fast", architecture, torch.float32, compiled)
    assert model.encoder.layers == ("packed" if architecture == "gpt2" else "fused")
    found = run(model, False)
    assert found.keys() == expected.keys()
    worst = max(error(found[name], expected[name]) for name in expected)
    assert worst <= 1e-5


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bf16_is_no_worse_than_the_reference_in_bf16(architecture: str, compiled: bool) -> None:
    """Over several adapters, because the errors of one differ by more than the tenth that is allowed."""
    ours, theirs = [], []
    for seed in range(8):
        exact = run(build("reference", architecture, torch.float32, False, seed=seed), False)
        reference = run(build("reference", architecture, torch.bfloat16, False, seed=seed), True)
        model = build("fast", architecture, torch.bfloat16, compiled, seed=seed)
        assert model.encoder.layers == ("packed" if architecture == "gpt2" else "fused")
        found = run(model, True)
        for errors, results in ((ours, found), (theirs, reference)):
            logits = error(results["logits"], exact["logits"])
            errors.append((logits**2, sum(error(results[name], exact[name]) ** 2 for name in exact)))
    mean = [[sum(part) ** 0.5 for part in zip(*errors, strict=True)] for errors in (ours, theirs)]
    print(f"{architecture}: logits and gradients: fast {mean[0]}, reference {mean[1]}")
    assert mean[0][0] <= 1.1 * mean[1][0] and mean[0][1] <= 1.1 * mean[1][1]
