"""The fast engine on an accelerator: float32 against the reference, bf16 against float64, compiled and not."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from llm_cls.config import ModelConfig
from llm_cls.data.batches import Batch
from llm_cls.model.classifier import TextClassifier, build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder
from tests.unit.model.test_model import config

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
}
LENGTHS = [3, 200, 17, 512, 1, 64]


def build(engine: str, architecture: str, dtype: torch.dtype, compiled: bool) -> TextClassifier:
    made = config(
        f"engine={engine}", "lora.target_modules=all-linear", "lora.lora_dropout=0",
        *([f"engine.compile={compiled}"] if engine == "fast" else []),
    )  # fmt: skip
    model = ModelConfig(name="tiny", weights="random", architecture=ARCHITECTURES[architecture])
    made = made.model_copy(update={"model": model})
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    decoder = decoder.to(torch.bfloat16).to(dtype).to("cuda")  # the same rounded weights in every type
    classifier = build_classifier(decoder, made, 5, gradient_checkpointing=False)
    generator = torch.Generator().manual_seed(1)
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
    assert model.packed
    found = run(model, False)
    assert found.keys() == expected.keys()
    worst = max(error(found[name], expected[name]) for name in expected)
    assert worst <= 1e-5


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bf16_is_no_worse_than_the_reference_in_bf16(architecture: str, compiled: bool) -> None:
    exact = run(build("reference", architecture, torch.float32, False), False)
    reference = run(build("reference", architecture, torch.bfloat16, False), True)
    model = build("fast", architecture, torch.bfloat16, compiled)
    assert model.packed
    found = run(model, True)

    def total(results: dict[str, torch.Tensor]) -> float:
        return sum(error(results[name], exact[name]) ** 2 for name in exact) ** 0.5

    print(f"{architecture}: fast {total(found):.5f}, reference {total(reference):.5f}")
    assert error(found["logits"], exact["logits"]) <= 1.1 * error(reference["logits"], exact["logits"])
    assert total(found) <= 1.1 * total(reference)
