"""The fused layers against the layers of ``transformers`` under autograd: gradients, dropout, recomputation, parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from llm_cls.config.schema import EngineConfig
from llm_cls.data.batches import Batch
from llm_cls.engine.spec import LayerSpec

from .networks import FUSED, IMAGES, LENGTHS, batch, build, compare, fused, gradients, loss

BATCHES = [[1], [64], [1, 1, 1], LENGTHS, LENGTHS[::-1], [9, 9], [9, 9, 4, 9, 9, 9]]


# With all linear layers adapted, every product is compared; with fewer, one of each form of a layer suffices.
FEWER = [pytest.param(a, "null", marks=() if a in ("neox", "llama", "gemma3") else pytest.mark.slow) for a in FUSED]


@pytest.mark.parametrize(("architecture", "targets"), [*((a, "all-linear") for a in FUSED), *FEWER])
def test_fused_layers_are_the_reference(architecture: str, targets: str) -> None:
    if targets == "null" and architecture in IMAGES:
        targets = "[q_proj,v_proj]"  # for which PEFT has no default
    compare(architecture, BATCHES, "fused", "lora.lora_dropout=0", f"lora.target_modules={targets}", "lora.r=4")


@pytest.mark.parametrize("rank", [2, 3, 10])  # with 1 the reference itself is off by 1e-4 in float32
@pytest.mark.parametrize("architecture", ["neox", "llama", "gemma3"])
def test_any_rank_is_fused(architecture: str, rank: int) -> None:
    overrides = ("lora.lora_dropout=0", "lora.target_modules=all-linear", f"lora.r={rank}")
    compare(architecture, [[3, 17]], "fused", *overrides)


def _with_attention(layer: LayerSpec, **changes: Any) -> LayerSpec:
    return replace(layer, attention=replace(layer.attention, **changes))


def _with_scores(layer: LayerSpec, **changes: Any) -> LayerSpec:
    return _with_attention(layer, scores=replace(layer.attention.scores, **changes))


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("mistral-windowed", lambda layer: _with_scores(layer, window=5)),
        ("qwen3-windowed", lambda layer: _with_scores(layer, window=layer.attention.scores.window and 8)),
        ("gemma2", lambda layer: _with_scores(layer, window=None)),
        ("gemma2", lambda layer: _with_scores(layer, softcap=None)),
        ("gemma2", lambda layer: _with_scores(layer, scaling=0.25)),
        ("gemma3", lambda layer: _with_scores(layer, scaling=0.25)),
        ("gemma3", lambda layer: _with_attention(layer, query_norm=None)),
        ("qwen3", lambda layer: _with_attention(layer, query_norm=None)),
        ("gemma3", lambda layer: replace(layer, attention_post_norm=None)),
        ("gemma3", lambda layer: replace(layer, mlp_post_norm=None)),
    ],
)
def test_the_comparison_sees_every_property(architecture: str, change: Callable[[LayerSpec], LayerSpec]) -> None:
    """A network without the property has other logits, so the comparison with the reference is one of it, too."""
    model = build("fast", architecture)
    model.eval()
    with torch.no_grad():
        logits = model(batch(LENGTHS))
        layers = fused(model).network.layers
        layers[:] = [replace(layer, spec=change(layer.spec)) for layer in layers]
        assert (model(batch(LENGTHS)) - logits).norm() > 1e-4 * logits.norm()


def test_without_an_adapter_only_the_head_is_trained() -> None:
    compare("neox", [[4, 2]], "fused", "lora=none")


@pytest.mark.parametrize("architecture", ["neox", "neox-parallel", "llama", "qwen3-windowed", "gemma2", "gemma3"])
def test_gradients_with_dropout_are_finite_differences(architecture: str) -> None:
    """Every gradient goes through the masks, so masks that differ between forward and backward would be found."""
    model = build("fast", architecture, "lora.lora_dropout=0.25", "lora.r=4", "lora.target_modules=all-linear")
    model.decoder.double()  # so that the differences are exact
    network_itself: Any = model.decoder
    model.use_engine(network_itself.base_model.model, EngineConfig(), full=False, max_length=64, max_texts=4)
    found = gradients(model)
    generator = torch.Generator().manual_seed(2)
    checked = [name for name in found if "lora_" in name]
    assert len(checked) == len([1 for name, p in model.named_parameters() if p.requires_grad]) - 1
    step = 2e-4
    for name in checked:
        parameter = model.get_parameter(name)
        along = torch.randn(parameter.shape, generator=generator)
        before, values = parameter.data.clone(), []
        for side in (step, -step):
            parameter.data = before + side * along
            values.append(loss(model).item())
        parameter.data = before
        expected = (values[0] - values[1]) / (2 * step)
        assert (found[name] * along).sum().item() == pytest.approx(expected, rel=2e-3, abs=1e-3), name


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        *((name, "all-linear") for name in ("neox-parallel", "llama", "qwen3-windowed", "gemma2", "gemma3")),
        ("llama", "null"),  # layers without an adapter
    ],
)
def test_float8_is_close(architecture: str, targets: str) -> None:
    """Three bits after the binary point, in each of a dozen products one after the other; also where recomputed."""
    overrides = ("lora.lora_dropout=0", "lora.r=4", f"lora.target_modules={targets}")
    expected = gradients(build("fast", architecture, *overrides))
    for recompute in (False, True):
        model = build("reference", architecture, *overrides)
        for name, parameter in model.named_parameters():
            if "lora_" not in name and name != "head.weight":
                parameter.data = parameter.data.bfloat16()
        decoder: Any = model.decoder
        engine = EngineConfig(name="fp8", gradient_checkpointing=recompute)
        model.use_engine(decoder.base_model.model, engine, full=False, max_length=64, max_texts=4)
        layers = fused(model).network.layers
        assert all(x.operand_format(85).fp8 for layer in layers for x in (layer.qkv, layer.out, layer.up, layer.down))
        found = gradients(model)
        error = sum(float((found[name] - value).norm() ** 2) for name, value in expected.items())
        total = sum(float(value.norm() ** 2) for value in expected.values())
        assert error**0.5 <= 0.2 * total**0.5


def test_without_training_nothing_is_dropped() -> None:
    model = build("fast", "neox", "lora.lora_dropout=0.5").eval()
    plain = build("fast", "neox", "lora.lora_dropout=0").eval()
    with torch.no_grad():
        assert torch.equal(model(batch(LENGTHS)), plain(batch(LENGTHS)))


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        *(("neox", targets) for targets in ("null", "all-linear", "[dense]")),
        *((name, targets) for name in ("qwen3", "gemma2", "gemma3") for targets in ("[q_proj,v_proj]", "all-linear")),
    ],
)
def test_recomputed_layers_give_the_same_gradients(architecture: str, targets: str) -> None:
    overrides = ("lora.lora_dropout=0.25", f"lora.target_modules={targets}")
    kept = build("fast", architecture, *overrides)
    recomputed = build("fast", architecture, "engine.gradient_checkpointing=true", *overrides)
    assert fused(recomputed).recompute_layers(100) == 2 and fused(kept).recompute_layers(100) == 0
    expected = gradients(kept)
    for name, gradient in gradients(recomputed).items():
        assert torch.equal(gradient, expected[name]), name


def test_adapters_in_the_upper_layers_only() -> None:
    """Nothing below them is saved, and their gradients are those of autograd."""
    overrides = ["lora.target_modules='.*layers\\.1\\.attention\\.query_key_value'", "lora.lora_dropout=0"]
    model, reference = build("fast", "neox", *overrides), build("reference", "neox", *overrides)
    assert fused(model).network.first_trained == 1
    expected = gradients(reference)
    found = gradients(model)
    assert found.keys() == expected.keys() and len(found) == 3
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_a_batch_in_parts_has_the_gradients_of_the_whole() -> None:
    model = build("fast", "neox", "lora.lora_dropout=0")
    whole = batch(LENGTHS)
    expected = gradients(model)
    model.zero_grad()
    parts = whole.split(40)
    assert [part.lengths for part in parts] == [[3, 17], [64], [1]]
    assert [part.first_token for part in parts] == [0, 20, 84]
    for part in parts:
        (F.cross_entropy(model(part), part.labels, reduction="sum") / len(LENGTHS)).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-7)


def test_split_keeps_every_text_once_and_gives_equal_parts() -> None:
    some = replace(batch([5] * 13), first_token=100)
    parts = some.split(20)
    assert [len(part.lengths) for part in parts] == [4, 4, 4, 1]
    assert [i for part in parts for i in part.indices] == some.indices
    assert torch.cat([part.input_ids for part in parts]).equal(some.input_ids)
    assert torch.cat([part.labels for part in parts]).equal(some.labels)
    assert parts[1].first_token == 100 + sum(parts[0].lengths)
    assert some.split(None) == [some] and some.split(65) == [some]


def test_logits_do_not_depend_on_the_other_texts_of_a_batch() -> None:
    model = build("fast", "llama").eval()
    together = batch([30, 2, 11])
    with torch.no_grad():
        logits, start = model(together), 0
        for i, length in enumerate(together.lengths):
            alone = Batch(together.input_ids[start : start + length], together.labels[:1], [length], [0])
            torch.testing.assert_close(model(alone)[0], logits[i], rtol=1e-5, atol=1e-6)
            start += length
