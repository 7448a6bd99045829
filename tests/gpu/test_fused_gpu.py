"""The fused layers on a GPU: graphs, parts of a batch, recomputation, float8."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from llm_cls.data.batches import Batch
from llm_cls.engine import network
from llm_cls.engine.graphs import bucket_size
from llm_cls.engine.runner import FusedDecoder
from llm_cls.model.classifier import TextClassifier

from .test_packed_gpu import LENGTHS, build, error

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0), reason="needs float8"
)


def some(lengths: list[int], seed: int = 0) -> Batch:
    ids = torch.randint(4, 999, (sum(lengths),), generator=torch.Generator().manual_seed(seed)).cuda()
    return Batch(ids, (torch.arange(len(lengths)) % 5).cuda(), lengths, list(range(len(lengths))))


def step(model: TextClassifier, parts: list[Batch]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(7)
    logits = []
    for part in parts:
        with torch.autocast("cuda", torch.bfloat16):
            logits.append(model(part))
        F.cross_entropy(logits[-1], part.labels, reduction="sum").backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"logits": torch.cat(logits).detach()}


@pytest.mark.parametrize("architecture", ["neox", "llama", "qwen3", "gemma2", "gemma3"])
def test_a_graph_matches_its_kernels(architecture: str) -> None:
    model = build("fast", architecture, torch.bfloat16, True, "lora.lora_dropout=0.1")
    fused: Any = model.encoder
    batches = [some(LENGTHS, seed) for seed in range(3)]
    assert sum(LENGTHS) <= fused._graphs.max_tokens
    eager = [step(build("fast", architecture, torch.bfloat16, True, "lora.lora_dropout=0.1"), [b]) for b in batches]
    step(model, [batches[0]])  # the first time without a graph
    before = fused._graphs._latest
    for batch, expected in zip([*batches, *batches], [*eager, *eager], strict=True):
        found = step(model, [batch])
        assert fused._graphs._latest is not before
        before = fused._graphs._latest
        for name, value in expected.items():
            assert error(found[name], value) <= 2e-2, name  # other sizes have other kernels, which round differently
    shorter = [length - 1 for length in LENGTHS if length > 1]  # one text less: another graph
    for _ in range(3):
        assert torch.isfinite(step(model, [some(shorter)])["logits"]).all()


def test_graphs_take_new_lengths_new_weights_and_scoring_in_between() -> None:
    """One size, captured once, serves batches of other lengths, both micro batches of a step, and changed adapters."""
    architecture, override = "neox", "lora.lora_dropout=0.1"
    model, eager = (build("fast", architecture, torch.bfloat16, True, override) for _ in range(2))
    fused, plain = model.encoder, eager.encoder
    assert isinstance(fused, FusedDecoder) and isinstance(plain, FusedDecoder)
    plain._graphs = None
    total = sum(LENGTHS)
    others = [LENGTHS[::-1], [512, 190, 30, 40, 2, 6]]
    assert {bucket_size(sum(lengths) + 1) for lengths in others} == {bucket_size(total + 1)}
    batches = [some(lengths, seed) for seed, lengths in enumerate([LENGTHS, *others])]
    for _ in range(2):  # until the size is captured
        step(model, [batches[0]])
    assert fused._graphs is not None and len(fused._graphs._graphs) == 1
    for round in range(3):
        for batch in batches:
            parts = [batch, replace(batches[0], first_token=total)]
            found, expected = step(model, parts), step(eager, parts)
            for name, value in expected.items():
                assert error(found[name], value) <= 2e-2, (round, name)
        for classifier in (model, eager):
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
                for p in classifier.parameters():
                    if p.requires_grad:
                        p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(round)).cuda())
                classifier.eval()(batches[0])
                classifier.train()
    assert len(fused._graphs._graphs) == 1


def test_a_first_capture_without_memory_leaves_the_other_sizes_their_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("fast", "neox", torch.bfloat16, True)
    fused = model.encoder
    assert isinstance(fused, FusedDecoder) and fused._graphs is not None
    first, second = some(LENGTHS), some(LENGTHS[1:])
    step(model, [first])
    with monkeypatch.context() as patch:

        def fails(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError

        patch.setattr(network, "backward", fails)
        inputs = first.input_ids, first.lengths, None
        assert fused._graphs.forward(*inputs) is None and not fused._graphs._graphs
    for _ in range(2):
        found = step(model, [second])
    assert len(fused._graphs._graphs) == 1 and torch.isfinite(found["logits"]).all()


@pytest.mark.parametrize("architecture", ["neox", "llama", "qwen3", "gemma2", "gemma3"])
def test_a_step_can_be_repeated_bit_by_bit(architecture: str) -> None:
    """With texts of several blocks, whose parts of a gradient could be added in any order."""
    model = build("fast", architecture, torch.bfloat16, True, "lora.lora_dropout=0.1")
    fused: Any = model.encoder
    fused._graphs = None
    batch = some([512, 300, 511, 40] * 8)
    first = step(model, [batch])
    for _ in range(4):
        for name, value in step(model, [batch]).items():
            assert torch.equal(value, first[name]), name


def test_parts_of_a_batch_share_the_dropout_mask_of_the_whole() -> None:
    whole = some(LENGTHS)
    model = build("fast", "neox", torch.float32, True, "lora.lora_dropout=0.3")
    expected = step(model, [whole])
    parts = whole.split(300)
    assert len(parts) > 1
    for name, value in step(model, parts).items():
        assert error(value, expected[name]) <= 1e-5, name


@pytest.mark.parametrize("architecture", ["neox", "qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_layers_give_the_same_gradients(dtype: torch.dtype, architecture: str) -> None:
    overrides = ("lora.lora_dropout=0.3", "lora.target_modules=null")
    kept = step(build("fast", architecture, dtype, True, *overrides), [some(LENGTHS)])
    model = build("fast", architecture, dtype, True, "engine.gradient_checkpointing=true", *overrides)
    recomputed = step(model, [some(LENGTHS)])
    for name, value in kept.items():
        assert error(recomputed[name], value) <= 1e-5, name


@pytest.mark.parametrize("architecture", ["neox", "neox-parallel", "llama", "qwen3", "gemma2", "gemma3"])
def test_dropout_gradients_are_finite_differences(architecture: str) -> None:
    model = build("fast", architecture, torch.float32, True, "lora.lora_dropout=0.3", "lora.target_modules=null")
    batch = some(LENGTHS)

    def loss() -> torch.Tensor:
        torch.manual_seed(7)
        return F.cross_entropy(model(batch).double(), batch.labels)

    loss().backward()
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        if "lora_" not in name or p.grad is None:
            continue
        along = torch.randn(p.shape, generator=generator).cuda()
        before, values = p.data.clone(), []
        for side in (3e-3, -3e-3):
            p.data = before + side * along
            values.append(loss().item())
        p.data = before
        expected = (values[0] - values[1]) / 6e-3
        assert (p.grad * along).sum().item() == pytest.approx(expected, rel=0.03, abs=2e-3), name


@hopper
@pytest.mark.parametrize("targets", ["null", "all-linear"])
@pytest.mark.parametrize("architecture", ["neox", "neox-parallel", "llama", "qwen3", "gemma2", "gemma3"])
def test_fp8_is_close(architecture: str, targets: str) -> None:
    """Three bits after the binary point, in each of a dozen products one after the other."""
    override = f"lora.target_modules={targets}"
    exact = step(build("reference", architecture, torch.float32, False, override), [some(LENGTHS)])
    rounded = step(build("fast", architecture, torch.bfloat16, True, override), [some(LENGTHS)])
    model = build("fp8", architecture, torch.bfloat16, True, override)
    fused: Any = model.encoder
    assert all(
        layer.qkv.operand_format(1000).fp8 and layer.down.operand_format(1000).fp8 for layer in fused.network.layers
    )
    found = step(model, [some(LENGTHS)])
    logits = error(found["logits"], exact["logits"])
    print(f"{architecture} {targets}: logits {logits:.4f}, bf16 {error(rounded['logits'], exact['logits']):.4f}")
    assert logits <= (0.2 if architecture == "gemma3" else 0.1)  # four norms a layer enlarge the errors of small sums
    for name, value in exact.items():
        assert error(found[name], value) <= 0.3, name
