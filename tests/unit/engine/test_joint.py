"""Several runs in one pass: each gets what it gets alone."""

import pytest
import torch
from torch import Tensor

from llm_cls.config.schema import ModelConfig
from llm_cls.engine.joint import JointPass, Share, joint_layers
from llm_cls.engine.layer_pass import PackedInputs
from llm_cls.engine.layers import FusedLayers, build_layers
from llm_cls.engine.network import backward, forward
from llm_cls.engine.packing import PackedLayout
from llm_cls.model.classifier import build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder, shared_copy
from tests.unit.model.test_model import config, randomize_vectors

from .networks import ARCHITECTURES, FUSED, close, fused

ALL = "lora.target_modules=all-linear"
RUNS = (
    ["lora.r=8", ALL, "seed=1"],
    ["lora.r=4", "lora.lora_alpha=3", ALL, "lora.lora_dropout=0.3", "seed=2"],
    ["lora.r=4", "lora.lora_dropout=0", ALL, "seed=3"],
    ["lora=none", "seed=4"],
)
# The mechanism knows no family; these have every form of a layer that it sees.
DEFAULT = ("neox-parallel", "llama-biased", "gemma3-local-last")
LENGTHS = ([5, 1, 17], [3], [9, 9, 2, 30], [4, 4])
FORWARD = ([0, 1, 2], [3, 2], [1], [2, 0, 3, 1])  # the runs of some joint passes


def runs(architecture: str) -> list[FusedLayers]:
    """The layers of four runs over the tensors of one decoder."""
    model = ModelConfig(name="tiny", weights="random", architecture=ARCHITECTURES[architecture])
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    randomize_vectors(decoder)
    frozen = build_layers(decoder, 64)
    networks = []
    for overrides in RUNS:
        made = config("data.max_length=64", *overrides).model_copy(update={"model": model})
        classifier = build_classifier(shared_copy(decoder), made, 5, gradient_checkpointing=False, frozen=frozen)
        generator = torch.Generator().manual_seed(made.seed)
        for name, parameter in classifier.named_parameters():
            if "lora_B" in name:  # as after some training
                parameter.data.normal_(std=0.1, generator=generator)
        networks.append(fused(classifier).network)
    return networks


def shares(seed: int) -> list[Share]:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(4, 99, (sum(lengths),), generator=generator) for lengths in LENGTHS]
    return [Share(some, n, (seed, 7 * i)) for i, (some, n) in enumerate(zip(ids, LENGTHS, strict=True))]


def alone(network: FusedLayers, share: Share, grad: Tensor) -> tuple[Tensor, list[Tensor]]:
    layout = PackedLayout.of(share.seq_lens, 64, torch.device("cpu"))
    inputs = PackedInputs(share.input_ids, layout, None if share.rng is None else torch.tensor(share.rng))
    pooled, saved = forward(network, inputs, save=bool(network.parameters))
    return pooled, [] if saved is None else backward(network, inputs, saved, grad)


@pytest.mark.parametrize(
    "architecture", [pytest.param(a, marks=() if a in DEFAULT else pytest.mark.slow) for a in FUSED]
)
def test_each_run_gets_what_it_gets_alone(architecture: str) -> None:
    networks = runs(architecture)
    for seed, chosen in enumerate(FORWARD):
        some = [(networks[i], shares(seed)[i]) for i in chosen]
        grads = [torch.randn(len(s.seq_lens), 32, generator=torch.Generator().manual_seed(9)) for _, s in some]
        own = [network for network, _ in some]
        joint = JointPass(joint_layers(own), own, [s for _, s in some], 64, save=True, recompute_layers=2 * (seed % 2))
        pooled, found = joint.pooled, joint.backward(grads)
        for (network, share), grad, state, gradients in zip(some, grads, pooled, found, strict=True):
            expected, expected_gradients = alone(network, share, grad)
            assert close(state, expected)
            largest = max((float(gradient.norm()) for gradient in expected_gradients), default=0.0)
            assert len(gradients) == len(expected_gradients) == len(network.parameters)
            for gradient, wanted in zip(gradients, expected_gradients, strict=True):
                assert close(gradient, wanted, 4e-7 * largest)


def test_a_run_with_nan_touches_no_other() -> None:
    networks, some = runs("neox"), shares(0)
    networks[1].parameters[0].data.fill_(float("nan"))
    joint = JointPass(joint_layers(networks), networks, some, 64, save=True)
    states, found = joint.pooled, joint.backward([torch.ones(len(n), 32) for n in LENGTHS])
    assert states[1].isnan().all() and all(gradient.isnan().any() for gradient in found[1])
    for i in (0, 2, 3):
        expected, gradients = alone(networks[i], some[i], torch.ones(len(LENGTHS[i]), 32))
        assert close(states[i], expected)
        assert all(close(a, b, 1e-5) for a, b in zip(found[i], gradients, strict=True))


def test_the_frozen_tensors_are_in_memory_once() -> None:
    networks = runs("llama")
    for layers in zip(*(network.layers for network in networks), strict=True):
        for same in zip(*(layer.projections for layer in layers), strict=True):
            assert len({projection.weight.data_ptr() for projection in same}) == 1
