"""The fused layers: dropout, recomputation, splitting, what fits."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from llm_cls.config.schema import EngineConfig
from llm_cls.engine import network
from llm_cls.engine.graphs import bucket
from llm_cls.engine.kernels import dropout
from llm_cls.engine.memory import Plan, plan
from llm_cls.engine.tensors import Draw, Mask
from llm_cls.model.classifier import TextClassifier, build_classifier
from tests.unit.model.test_model import config

from .test_packed import batch, build

LENGTHS = [3, 17, 64, 1]


def fused(model: TextClassifier) -> Any:
    assert model._fused is not None
    return model._fused


def loss(model: TextClassifier) -> torch.Tensor:
    torch.manual_seed(5)  # from which the step's dropout is drawn
    some = batch(LENGTHS)
    return F.cross_entropy(model(some).double(), some.labels)


def gradients(model: TextClassifier) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ["neox", "neox-parallel", "llama"])
def test_gradients_with_dropout_are_finite_differences(architecture: str) -> None:
    """A mask that differed between forward and backward would show: every gradient goes through it."""
    model = build("fast", architecture, "lora.lora_dropout=0.25", "lora.r=4", "lora.target_modules=all-linear")
    model.decoder.double()  # so that the differences are exact
    network_itself: Any = model.decoder
    model.use_fast_engine(network_itself.base_model.model, EngineConfig(), full=False, max_length=64, max_texts=4)
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


def test_a_step_draws_its_seed_once_and_the_next_step_another() -> None:
    model = build("fast", "neox", "lora.lora_dropout=0.25")
    seeds = []
    for first_token in (0, 20, 84, 0, 0):
        model(dataclasses.replace(batch(LENGTHS), first_token=first_token))
        seeds.append(fused(model)._seed)
    assert seeds[0] == seeds[1] == seeds[2] and len(set(seeds)) == 3


def test_dropout_depends_on_seed_and_adapter_and_has_its_rate() -> None:
    x = torch.ones(500, 400)
    rng = torch.tensor([7, 0])
    dropped = dropout(x, Mask(0.1, Draw(rng), 3))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.9], rel=1e-4)
    assert (dropped == 0).double().mean().item() == pytest.approx(0.1, abs=0.003)
    assert torch.equal(dropout(x, Mask(0.1, Draw(rng), 3)), dropped)
    for other in (Mask(0.1, Draw(rng), 4), Mask(0.1, Draw(torch.tensor([8, 0])), 3)):
        both = ((dropout(x, other) == 0) & (dropped == 0)).double().mean().item()
        assert both == pytest.approx(0.01, abs=0.002)


def test_without_training_nothing_is_dropped() -> None:
    model = build("fast", "neox", "lora.lora_dropout=0.5").eval()
    plain = build("fast", "neox", "lora.lora_dropout=0").eval()
    with torch.no_grad():
        assert torch.equal(model(batch(LENGTHS)), plain(batch(LENGTHS)))


@pytest.mark.parametrize("overrides", [[], ["lora.target_modules=all-linear"], ["lora.target_modules=[dense]"]])
def test_layers_that_are_computed_again_give_the_same_gradients(overrides: list[str]) -> None:
    kept = build("fast", "neox", "lora.lora_dropout=0.25", *overrides)
    again = build("fast", "neox", "lora.lora_dropout=0.25", "engine.gradient_checkpointing=true", *overrides)
    assert fused(again).recomputed(100) == 2 and fused(kept).recomputed(100) == 0
    expected = gradients(kept)
    for name, gradient in gradients(again).items():
        assert torch.equal(gradient, expected[name]), name


def test_adapters_in_the_upper_layers_alone() -> None:
    """Nothing below them is kept, and their gradients are the same as under autograd."""
    overrides = ["lora.target_modules='.*layers\\.1\\.attention\\.query_key_value'", "lora.lora_dropout=0"]
    model, reference = build("fast", "neox", *overrides), build("reference", "neox", *overrides)
    blocks = fused(model).blocks
    assert network.first_trained(blocks) == 1
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


def test_split_keeps_every_text_once_and_parts_alike() -> None:
    some = dataclasses.replace(batch([5] * 13), first_token=100)
    parts = some.split(20)
    assert [len(part.lengths) for part in parts] == [4, 4, 4, 1]
    assert [i for part in parts for i in part.indices] == some.indices
    assert torch.cat([part.input_ids for part in parts]).equal(some.input_ids)
    assert torch.cat([part.labels for part in parts]).equal(some.labels)
    assert parts[1].first_token == 100 + sum(parts[0].lengths)
    assert some.split(None) == [some] and some.split(65) == [some]


def test_as_many_layers_are_computed_again_as_memory_wants() -> None:
    some = Plan(None, None, available=1000, kept=10, again=1, working=20, layers=8, graphs=False)
    assert some.recomputed(10) == 0  # 10 * (8 * 10 + 20) = 1000
    assert some.recomputed(11) == 2  # 1100 are needed; each layer gives back 11 * 9 = 99
    assert some.recomputed(1000) == 8
    assert dataclasses.replace(some, available=None).recomputed(10**9) == 0


def test_what_is_planned_fits_beside_the_graphs() -> None:
    blocks = fused(build("fast", "neox")).blocks
    trained = sum(p.numel() for p in network.parameters(blocks))
    room = 10**9  # bytes for activations
    free = math.ceil((room + 256 * 2**20 + 12 * trained) / 0.9)
    without = plan(blocks, free, 0)
    each = without.layers * without.kept + without.working
    assert abs(without.available - room) <= 1 and without.max_tokens == room // each and not without.graphs
    assert without.recomputed(without.max_tokens) == 0
    few = int(0.3 * room) // each
    with_graphs = plan(blocks, free, few)
    assert with_graphs.graphs and with_graphs.max_tokens * each + few * each <= room
    assert with_graphs.recomputed(without.max_tokens) > 0
    many = plan(blocks, free, int(0.5 * room) // each)
    assert not many.graphs and many.max_tokens == without.max_tokens
    tight = plan(blocks, math.ceil((2000 * each + 256 * 2**20 + 12 * trained) / 0.9), 0)
    assert tight.max_tokens == 2048 and tight.recomputed(2048) == 1, "an efficient size, at the price of a layer"
    assert plan(blocks, None, 0).max_tokens is None


def test_sizes_of_graphs() -> None:
    sizes = [bucket(n) for n in range(1, 5000)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert max(size / n for n, size in enumerate(sizes, 1) if n > 256) <= 1 + 1 / 16
    assert len(set(sizes)) < 100


def test_a_decoder_that_was_frozen_is_trained_as_a_whole_by_the_next_run() -> None:
    first = build("fast", "neox")
    decoder = first.release()
    made = config("engine=fast", "lora=full", "data.max_length=64")
    second = build_classifier(decoder, made, 5, gradient_checkpointing=False)
    total, trained = second.count_parameters()
    assert trained == total and second._fused is None


def test_a_released_decoder_has_the_attention_that_it_had() -> None:
    decoder = build("reference", "qwen3").release()
    decoder.set_attn_implementation("eager")
    again = build_classifier(decoder, config("engine=fast", "data.max_length=64"), 5, gradient_checkpointing=False)
    assert again.layers == "packed" and decoder.config._attn_implementation == "llm_cls_packed"
    assert again.release().config._attn_implementation == "eager"


def test_a_released_decoder_computes_what_it_did_before() -> None:
    model = build("fast", "llama", "lora.target_modules=all-linear")
    fresh: Any = build("reference", "llama", "lora=none").decoder
    ids = torch.arange(4, 20)[None]
    again: Any = model.release()
    with torch.no_grad():
        torch.testing.assert_close(again(ids).last_hidden_state, fresh(ids).last_hidden_state)
