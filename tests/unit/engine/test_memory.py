"""How much of a batch fits: the plan against the memory that it was given."""

import dataclasses
import math

from llm_cls.engine.memory import Plan, plan

from .networks import build, fused


def test_as_many_layers_are_recomputed_as_memory_requires() -> None:
    some = Plan(None, None, available=1000, saved=10, recomputed=1, working=20, layers=8, graphs=False)
    assert some.recompute_layers(10) == 0  # 10 * (8 * 10 + 20) = 1000
    assert some.recompute_layers(11) == 2  # 1100 are needed; each recomputed layer frees 11 * 9 = 99
    assert some.recompute_layers(1000) == 8
    assert dataclasses.replace(some, available=None).recompute_layers(10**9) == 0


def test_the_plan_counts_what_the_norms_save() -> None:
    """Query, key and value once more, and the input of each post-norm."""
    plain, heads, posts = (fused(build("fast", name)).network for name in ("qwen2", "qwen3", "gemma3"))
    saved = {}
    for name, network in (("qwen2", plain), ("qwen3", heads), ("gemma3", posts)):
        layer = network.layers[0]
        hidden, inputs = 32, layer.out.weight.shape[1]
        outputs = layer.qkv.weight.shape[0] + layer.up.weight.shape[0]
        adapted = [x for x in (layer.qkv, layer.out, layer.up, layer.down) if x.adapters]
        adapters = sum(x.weight.shape[1] for x in adapted)
        adapters += sum(
            adapter.a.shape[0] + adapter.a.shape[1] // 16 for adapter in layer.adapters
        )  # bits of the masks
        saved[name] = plan(network, None, 0).saved // 4 - 2 * hidden - inputs - outputs - adapters
    qkv = {name: network.layers[0].qkv.weight.shape[0] for name, network in (("qwen3", heads), ("gemma3", posts))}
    assert saved == {"qwen2": 0, "qwen3": qkv["qwen3"], "gemma3": qkv["gemma3"] + 2 * 32}


def test_the_plan_fits_beside_the_graphs() -> None:
    layers = fused(build("fast", "neox")).network
    trained = sum(p.numel() for p in layers.parameters)
    room = 10**9  # bytes for activations
    free = math.ceil((room + 256 * 2**20 + 12 * trained) / 0.9)
    without = plan(layers, free, 0)
    each = without.layers * without.saved + without.working
    assert abs(without.available - room) <= 1 and without.max_tokens == room // each and not without.graphs
    assert without.recompute_layers(without.max_tokens) == 0
    few = int(0.3 * room) // each
    with_graphs = plan(layers, free, few)
    assert with_graphs.graphs and with_graphs.max_tokens * each + few * each <= room
    assert with_graphs.recompute_layers(without.max_tokens) > 0
    many = plan(layers, free, int(0.5 * room) // each)
    assert not many.graphs and many.max_tokens == without.max_tokens
    tight = plan(layers, math.ceil((2000 * each + 256 * 2**20 + 12 * trained) / 0.9), 0)
    assert tight.max_tokens == 2048 and tight.recompute_layers(2048) == 1, (
        "an efficient size, at the price of recomputing a layer"
    )
    assert plan(layers, None, 0).max_tokens is None
