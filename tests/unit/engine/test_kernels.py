"""The element-wise arithmetic on a CPU; ``test_triton.py`` and ``tests/gpu`` compare the Triton kernels with it."""

import pytest
import torch
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from llm_cls.engine import kernels
from llm_cls.engine.kernels import ACTIVATIONS
from llm_cls.engine.lora_products import add_dropout, dropout
from llm_cls.engine.tensors import UNQUANTIZED, DropoutMask, DropoutState, Norm, Stream


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize("rms", [False, True])
def test_norm_is_that_of_the_sum_with_the_gradient_of_autograd(rms: bool) -> None:
    x, a, b, weight, bias, pending = *(normal(5, 8, seed=i) for i in range(3)), *(normal(8, seed=i) for i in range(3))
    total = x + a + b + pending
    layer = LlamaRMSNorm(8, 1e-3)
    layer.weight.data = weight.detach()
    parameters = Norm(weight.detach(), None if rms else bias.detach(), 1e-3, rms)
    given = [tensor.detach() for tensor in (a, b)]
    found = kernels.norm(Stream(x.detach(), given, pending.detach()), parameters)
    # The layer of transformers computes in float32.
    expected = layer(total) if rms else F.layer_norm(total, (8,), weight, bias, 1e-3)
    torch.testing.assert_close(found.normed.tensor, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.total, total.detach())
    grad, residual = normal(5, 8, seed=7).detach(), normal(5, 8, seed=8).detach()
    wanted = torch.autograd.grad(expected, total, grad)[0] + residual
    result = kernels.norm_backward(grad, found.total, parameters, residual)
    torch.testing.assert_close(result.tensor, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rms", [False, True])
def test_two_norms_of_a_sum_are_those_of_each_by_itself(rms: bool) -> None:
    x, a, grad, other, residual = (normal(5, 8, seed=i).detach() for i in range(5))
    first, second = (Norm(*(normal(8, seed=i + j).detach() for j in range(2)), 1e-3, rms) for i in (5, 7))
    found = kernels.norm(Stream(x, [a]), first, UNQUANTIZED, (second, UNQUANTIZED))
    assert found.second is not None
    torch.testing.assert_close(found.normed.tensor, kernels.norm(Stream(x + a), first).normed.tensor)
    torch.testing.assert_close(found.second.tensor, kernels.norm(Stream(x + a), second).normed.tensor)
    result = kernels.norm_backward(grad, x + a, first, residual, UNQUANTIZED, (other, second))
    parts = [kernels.norm_backward(*some, None).tensor for some in ((grad, x + a, first), (other, x + a, second))]
    torch.testing.assert_close(result.tensor, residual + sum(parts))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_that_of_transformers_with_the_gradient_of_autograd(name: str, gated: bool) -> None:
    x, bias, grad = (
        2 * normal(4, 12).detach(),
        normal(12, seed=1).detach(),
        normal(4, 6 if gated else 12, seed=2).detach(),
    )
    x.requires_grad_()
    function = ACT2FN[name]
    gate, value = (x + bias).chunk(2, -1)
    expected = function(gate) * value if gated else function(x + bias)
    kind = ACTIVATIONS[name], gated, bias
    torch.testing.assert_close(kernels.activate(x.detach(), *kind).tensor, expected.detach())
    wanted = torch.autograd.grad(expected, x, grad)[0]
    torch.testing.assert_close(kernels.activate_backward(grad, x.detach(), *kind).tensor, wanted)


def test_dropout_depends_on_seed_and_adapter_and_has_its_rate() -> None:
    x = torch.ones(500, 400)
    rng = torch.tensor([7, 0])
    dropped = dropout(x, DropoutMask(0.1, DropoutState(rng), 3))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.9], rel=1e-4)
    assert (dropped == 0).double().mean().item() == pytest.approx(0.1, abs=0.003)
    assert torch.equal(dropout(x, DropoutMask(0.1, DropoutState(rng), 3)), dropped)
    for other in (DropoutMask(0.1, DropoutState(rng), 4), DropoutMask(0.1, DropoutState(torch.tensor([8, 0])), 3)):
        both = ((dropout(x, other) == 0) & (dropped == 0)).double().mean().item()
        assert both == pytest.approx(0.01, abs=0.002)
    total = torch.ones_like(x)
    add_dropout(total, x, DropoutMask(0.1, DropoutState(rng), 3))
    torch.testing.assert_close(total, dropped + 1)
