"""Packed batches through the layers of ``transformers``, against padded ones."""

from typing import Any

import pytest
import torch

from llm_cls.config.schema import EngineConfig
from llm_cls.engine.packed import PackedLoraLinear
from llm_cls.engine.packed_attention import PACKED_ATTENTION
from llm_cls.model.classifier import build_classifier
from tests.unit.model.test_model import config

from .networks import build, compare
from .test_network import BATCHES


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [("phi3", "[qkv_proj]"), ("phi3", "all-linear"), ("gpt2", "null"), ("gpt2", "all-linear")],
)
def test_packing_is_the_reference(architecture: str, targets: str) -> None:
    compare(architecture, BATCHES, "packed", "lora.lora_dropout=0", f"lora.target_modules={targets}", "lora.r=4")


def test_lora_layers_are_replaced_and_keep_their_parameters() -> None:
    model = build("fast", "phi3", "lora.target_modules=all-linear")
    replaced = [m for m in model.modules() if isinstance(m, PackedLoraLinear)]
    assert len(replaced) == 2 * 4
    assert set(model.state_dict()) == set(build("reference", "phi3", "lora.target_modules=all-linear").state_dict())


def test_dropout_of_a_replaced_layer_has_its_rate_and_one_mask_in_forward_and_backward() -> None:
    """With one mask the layer is linear in its input: the gradient is the finite difference, exactly."""
    model = build("fast", "phi3", "lora.lora_dropout=0.25", "lora.r=4")
    layer = next(m for m in model.modules() if isinstance(m, PackedLoraLinear)).double()
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
    ("architecture", "overrides", "replaced"),
    [
        ("neox", ["lora.use_dora=true", "lora.lora_dropout=0"], 0),
        ("gpt2", ["lora.target_modules=[c_attn]", "lora.lora_dropout=0"], 0),
        ("phi3", ["lora.lora_dropout=0", "lora.target_modules=[o_proj]"], 2),
    ],
)
def test_only_plain_lora_layers_are_replaced(architecture: str, overrides: list[str], replaced: int) -> None:
    model = build("fast", architecture, *overrides)
    assert sum(isinstance(m, PackedLoraLinear) for m in model.modules()) == replaced
    compare(architecture, [[4, 2]], "packed", *overrides)


def test_head_sizes_without_a_kernel_are_packed() -> None:
    compare("llama-odd-heads", [[4, 2]], "packed", "lora.lora_dropout=0")


def test_a_decoder_whose_attention_is_not_causal_is_padded() -> None:
    compare("llama-both-ways", [[4, 2]], "padded", "lora.lora_dropout=0")


def test_a_network_that_was_trained_as_a_whole_is_not_fused_when_it_is_loaded() -> None:
    model = build("reference", "neox", "lora=none")
    decoder: Any = model.decoder
    model.use_engine(decoder, EngineConfig(compile=False), full=True, max_length=64, max_texts=1)
    assert model.encoder.layers == "packed"


def test_sliding_windows_are_padded(caplog: pytest.LogCaptureFixture) -> None:
    model = build("fast", "phi3-windowed")
    assert model.encoder.layers == "padded" and "attends to a sliding window" in caplog.text


def test_a_released_decoder_has_its_former_attention() -> None:
    decoder = build("reference", "phi3").release()
    decoder.set_attn_implementation("eager")
    model = build_classifier(decoder, config("engine=fast", "data.max_length=64"), 5, gradient_checkpointing=False)
    assert model.encoder.layers == "packed" and decoder.config._attn_implementation == PACKED_ATTENTION
    assert model.release().config._attn_implementation == "eager"
