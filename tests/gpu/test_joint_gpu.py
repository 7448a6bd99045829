"""Several runs in one pass on a GPU: rounding to bfloat16 is that of a run by itself."""

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
from tests.unit.engine.networks import fused
from tests.unit.model.test_model import config

from .test_packed_gpu import ARCHITECTURES, LENGTHS, error

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = torch.device("cuda")
RUNS = (["lora.r=16", "seed=1"], ["lora.r=8", "lora.lora_dropout=0.3", "seed=2"], ["lora.r=12", "seed=3"])
Result = list[list[Tensor]]  # per run the states and the gradients


def networks(architecture: str, dtype: torch.dtype) -> list[FusedLayers]:
    """Runs over one decoder, whose weights are bfloat16 numbers in either type."""
    model = ModelConfig(name="tiny", weights="random", architecture=ARCHITECTURES[architecture])
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    decoder = decoder.to(torch.bfloat16).to(DEVICE, dtype)
    frozen, found = build_layers(decoder, 512), []
    for overrides in RUNS:
        keys = ["data.max_length=512", "lora.target_modules=all-linear", *overrides]
        made = config(*keys).model_copy(update={"model": model})
        classifier = build_classifier(shared_copy(decoder), made, 5, gradient_checkpointing=False, frozen=frozen)
        generator = torch.Generator().manual_seed(made.seed)
        for name, parameter in classifier.named_parameters():
            if "lora_" in name:
                parameter.data = torch.empty(parameter.shape).normal_(std=0.05, generator=generator).to(DEVICE)
        found.append(fused(classifier).network)
    return found


def shares(seed: int) -> list[Share]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [LENGTHS, LENGTHS[::-1], LENGTHS[:3]]
    ids = [torch.randint(4, 999, (sum(some),), generator=generator).to(DEVICE) for some in lengths]
    return [Share(some, n, (seed, 7 * i)) for i, (some, n) in enumerate(zip(ids, lengths, strict=True))]


def alone(runs: list[FusedLayers], some: list[Share], grads: list[Tensor]) -> Result:
    found = []
    for run, share, grad in zip(runs, some, grads, strict=True):
        layout = PackedLayout.of(share.seq_lens, 512, DEVICE)
        inputs = PackedInputs(share.input_ids, layout, torch.tensor(share.rng, device=DEVICE))
        pooled, saved = forward(run, inputs, save=True)
        assert saved is not None
        found.append([pooled, *backward(run, inputs, saved, grad.to(pooled.dtype))])
    return found


def together(runs: list[FusedLayers], some: list[Share], grads: list[Tensor]) -> Result:
    joint = JointPass(joint_layers(runs), runs, some, 512, save=True)
    pooled = joint.pooled
    found = joint.backward([grad.to(states.dtype) for grad, states in zip(grads, pooled, strict=True)])
    return [[states, *gradients] for states, gradients in zip(pooled, found, strict=True)]


@pytest.mark.parametrize("architecture", ["neox", "llama", "gemma3"])
def test_a_pass_is_no_less_exact_than_each_run_by_itself(architecture: str) -> None:
    """Against float32 with the same weights and masks; over several batches, as the errors of one differ."""
    exact, rounded = (networks(architecture, dtype) for dtype in (torch.float32, torch.bfloat16))
    torch.backends.cuda.matmul.allow_tf32 = False
    errors = torch.zeros(2, len(RUNS), 2, dtype=torch.float64)
    for seed in range(6):
        some = shares(seed)
        hidden, generator = exact[0].embedding.shape[1], torch.Generator().manual_seed(seed)
        grads = [torch.randn(len(share.seq_lens), hidden, generator=generator).to(DEVICE) for share in some]
        wanted = alone(exact, some, grads)
        for i, results in enumerate((alone(rounded, some, grads), together(rounded, some, grads))):
            for j, (found, expected) in enumerate(zip(results, wanted, strict=True)):
                parts = [error(a, b) ** 2 for a, b in zip(found, expected, strict=True)]
                errors[i, j] += torch.tensor([parts[0], sum(parts[1:])])
        if seed == 0:
            assert all(
                error(a, b) <= 1e-5
                for found, expected in zip(together(exact, some, grads), wanted, strict=True)
                for a, b in zip(found, expected, strict=True)
            ), "float32"
    print(f"{architecture}: errors of states and gradients alone {errors[0].sqrt()}, together {errors[1].sqrt()}")
    assert (errors[1] <= 1.2 * errors[0]).all()
