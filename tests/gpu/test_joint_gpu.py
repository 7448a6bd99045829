"""Several runs in one pass on a GPU: rounding to bfloat16 is that of a run by itself."""

from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

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
STEPS = 40
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


def micro_batches(share: Share, n: int) -> list[Share]:
    """The texts of a step in parts of ``n``, with the masks that they have in the whole."""
    assert share.rng is not None
    found, token = [], 0
    for first in range(0, len(share.seq_lens), n):
        lengths = share.seq_lens[first : first + n]
        rng = share.rng[0], share.rng[1] + token
        found.append(Share(share.input_ids[token : token + sum(lengths)], lengths, rng))
        token += sum(lengths)
    return found


def trained(runs: list[FusedLayers], seed: int, n: int | None) -> Tensor:
    """Losses of a training, shape ``(STEPS, n_runs)``: alone in micro batches of ``n`` texts, or in one pass (None)."""
    generator = torch.Generator().manual_seed(seed)
    heads = [torch.randn(5, run.embedding.shape[1], generator=generator).to(DEVICE) / 16 for run in runs]
    corpus = [shares(4 * seed + i) for i in range(4)]
    labels = [[torch.randint(5, (len(share.seq_lens),), generator=generator).to(DEVICE) for share in x] for x in corpus]
    optimizer = torch.optim.AdamW([p for run in runs for p in run.parameters], lr=5e-4)
    losses = torch.zeros(STEPS, len(runs), dtype=torch.float64)

    def gradient(pooled: Tensor, step: int, run: int, texts: slice) -> Tensor:
        """Of the loss with respect to the states; adds up the loss."""
        states = pooled.detach().float().requires_grad_()
        wanted = labels[step % 4][run]
        loss = F.cross_entropy(states @ heads[run].T, wanted[texts], reduction="sum") / len(wanted)
        losses[step, run] += loss.item()
        (grad,) = torch.autograd.grad(loss, states)
        return grad.to(pooled.dtype)

    for step in range(STEPS):
        some = [Share(x.input_ids, x.seq_lens, (step, 7 * i)) for i, x in enumerate(corpus[step % 4])]
        found: list[Sequence[Tensor]]
        if n is None:
            joint = JointPass(joint_layers(runs), runs, some, 512, save=True)
            found = list(joint.backward([gradient(x, step, i, slice(None)) for i, x in enumerate(joint.pooled)]))
        else:
            found = []
            for i, (run, share) in enumerate(zip(runs, some, strict=True)):
                parts, first = [], 0
                for micro in micro_batches(share, n):
                    layout = PackedLayout.of(micro.seq_lens, 512, DEVICE)
                    inputs = PackedInputs(micro.input_ids, layout, torch.tensor(micro.rng, device=DEVICE))
                    pooled, saved = forward(run, inputs, save=True)
                    assert saved is not None
                    grad = gradient(pooled, step, i, slice(first, first + len(pooled)))
                    parts.append(backward(run, inputs, saved, grad))
                    first += len(pooled)
                found.append([torch.stack(same).sum(dim=0) for same in zip(*parts, strict=True)])
        for run, gradients in zip(runs, found, strict=True):
            for parameter, own in zip(run.parameters, gradients, strict=True):
                parameter.grad = own.to(parameter.dtype)
        optimizer.step()
    return losses


def test_a_training_in_a_pass_is_as_far_from_those_alone_as_these_are_from_one_another() -> None:
    """Alone with three micro batch sizes, which differ in rounding only: ``benchmarks/rounding.py`` in the small."""
    ways = (6, 2, 1, None)
    squares = dict.fromkeys(combinations(ways, 2), 0.0)
    for seed in range(4):
        losses = {n: trained(networks("llama", torch.bfloat16), seed, n) for n in ways}
        for one, two in squares:
            squares[one, two] += (losses[one] - losses[two]).square().mean().item()
        assert (losses[6][-8:].mean() < 0.8 * losses[6][:8].mean()).all(), "nothing was learnt"
    distances = {pair: (square / 4) ** 0.5 for pair, square in squares.items()}
    print(f"root mean square differences of the losses: {distances}")
    alone_only = [x for pair, x in distances.items() if None not in pair]
    to_pass = [x for pair, x in distances.items() if None in pair]
    assert min(alone_only) > 0
    assert max(to_pass) <= 1.5 * max(alone_only)
