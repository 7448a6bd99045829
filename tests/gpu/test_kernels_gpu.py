"""The Triton kernels against their PyTorch definitions in float64."""

import pytest
import torch
from torch import Tensor

from llm_cls.engine import kernels
from llm_cls.engine.attention import BLOCK_SIZES, Texts, attend, attend_backward, per_text
from llm_cls.engine.tensors import Draw, Form, Mask, Norm

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    assert ((found.double().cpu() - expected).norm() / expected.norm()).item() <= TOLERANCE[dtype]


@dtypes
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("cols", [96, 2816])
@pytest.mark.parametrize("n_addends", [0, 1, 2])
def test_norm(n_addends: int, cols: int, rms: bool, dtype: torch.dtype) -> None:
    weight, bias = drawn(cols, dtype=dtype, seed=1), drawn(cols, dtype=dtype, seed=2)
    exact = Norm(weight.double(), None if rms else bias.double(), 1e-5, rms)
    ours = Norm(weight.cuda(), None if rms else bias.cuda(), 1e-5, rms)
    x, grad, residual, *addends = (drawn(33, cols, dtype=dtype, seed=3 + i) for i in range(3 + n_addends))
    offset = drawn(cols, dtype=dtype, seed=9) if addends else None
    given = None if offset is None else offset.cuda()
    total, normed, stats = kernels.norm(x.cuda(), [a.cuda() for a in addends], ours, given)
    given = None if offset is None else offset.double()
    expected = kernels.norm(x.double(), [a.double() for a in addends], exact, given)
    check(total, expected.total, dtype)
    check(normed.tensor, expected.rows.tensor, dtype)
    for rest in (None, residual):
        found = kernels.norm_backward(grad.cuda(), total, stats, ours, None if rest is None else rest.cuda())
        wanted = kernels.norm_backward(
            grad.double(), total.double().cpu(), None, exact, None if rest is None else rest.double()
        )
        check(found.tensor, wanted.tensor, dtype)


@dtypes
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", sorted(set(kernels.ACTIVATIONS.values())))
def test_activate(activation: str, gated: bool, offset: bool, dtype: torch.dtype) -> None:
    x, grad = 3 * drawn(17, 6000 if gated else 3000, dtype=dtype), drawn(17, 3000, dtype=dtype, seed=1)
    bias = drawn(x.shape[1], dtype=dtype, seed=2) if offset else None
    exact, ours = (None, None) if bias is None else (bias.double(), bias.cuda())
    expected = kernels.activate(x.double(), activation, gated, exact)
    check(kernels.activate(x.cuda(), activation, gated, ours).tensor, expected.tensor, dtype)
    expected = kernels.activate_backward(grad.double(), x.double(), activation, gated, exact)
    check(kernels.activate_backward(grad.cuda(), x.cuda(), activation, gated, ours).tensor, expected.tensor, dtype)


@dtypes
@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize("half", [8, 16])
def test_rotate(half: int, kv_heads: int, dtype: torch.dtype) -> None:
    positions = torch.arange(17, dtype=torch.int32) % 9
    cos, sin = (drawn(9, half, dtype=torch.float32, seed=i) for i in range(2))
    tables = positions.cuda(), cos.cuda(), sin.cuda()
    sizes = [6, kv_heads, kv_heads]
    joined = drawn(17, sum(sizes), 32, dtype=dtype)
    exact = joined.double().split(sizes, 1)
    kernels.rotate(exact, exact, positions, cos.double(), sin.double(), 1)
    found = joined.cuda().split(sizes, 1)
    kernels.rotate(found, found, *tables, 1)
    for ours, wanted in zip(found, exact, strict=True):
        check(ours, wanted, dtype)
    source, target = joined.double().split(sizes, 1), [torch.zeros(17, n, 32, dtype=torch.float64) for n in sizes]
    kernels.rotate(source, target, positions, cos.double(), sin.double(), -1)
    ours = torch.zeros(17, sum(sizes), 32, dtype=dtype, device="cuda").split(sizes, 1)
    kernels.rotate([x.cuda() for x in joined.split(sizes, 1)], ours, *tables, -1)
    for some, wanted in zip(ours, target, strict=True):
        check(some, wanted, dtype)


def test_dropout_has_its_rate_and_one_mask_that_depends_on_the_token_alone() -> None:
    x = torch.ones(2048, 2816, device="cuda")
    mask = Mask(0.1, Draw(torch.tensor([7, 0], device="cuda")), 3)
    dropped = kernels.dropout(x, mask)
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.9])
    # 5.8 million draws: the standard error of the rate is 0.00012
    assert (dropped == 0).double().mean().item() == pytest.approx(0.1, abs=0.0006)
    assert (dropped == 0).double().mean(0).std().item() == pytest.approx((0.09 / 2048) ** 0.5, rel=0.1)
    assert (dropped == 0).double().mean(1).std().item() == pytest.approx((0.09 / 2816) ** 0.5, rel=0.1)
    total = torch.ones_like(x)
    kernels.add_dropout(total, x, mask)
    torch.testing.assert_close(total, dropped + 1)
    later = Mask(0.1, Draw(torch.tensor([7, 100], device="cuda")), 3)
    assert torch.equal(kernels.dropout(x[100:], later), dropped[100:])
    for seed, stream in ((8, 3), (7, 4)):
        other = kernels.dropout(x, Mask(0.1, Draw(torch.tensor([seed, 0], device="cuda")), stream))
        both = ((other == 0) & (dropped == 0)).double().mean().item()
        assert both == pytest.approx(0.01, abs=0.0003)  # independent


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(6, 6, 128), (4, 2, 64), (4, 4, 32), (4, 4, 80), (4, 2, 96)])
def test_attention(heads: int, kv_heads: int, size: int) -> None:
    lengths = [1, 200, 64, 512, 65, 31]
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    joined = drawn(sum(lengths), heads + 2 * kv_heads, size, dtype=torch.bfloat16)
    grad = drawn(sum(lengths), heads, size, dtype=torch.bfloat16, seed=1)
    exact = [x.requires_grad_() for x in joined.double().split([heads, kv_heads, kv_heads], 1)]
    expected = per_text(*exact, lengths, 0.1)
    parts = joined.cuda().split([heads, kv_heads, kv_heads], 1)
    texts = Texts(ends, ends.cuda(), ends, lengths, 512)
    output, saved = attend(*parts, texts, 0.1, only_last=False, save=True)
    target = torch.full_like(joined, float("nan")).cuda().split([heads, kv_heads, kv_heads], 1)
    found = attend_backward(saved, grad.cuda(), texts, 0.1, False, target)
    assert (found is target) == (size in BLOCK_SIZES)  # other sizes take PyTorch's kernel
    check(output, expected.detach(), torch.bfloat16)
    for ours, wanted in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert ((ours.double().cpu() - wanted).norm() / wanted.norm()).item() <= 8e-3


@pytest.mark.parametrize("cols", [256, 11264])
def test_fp8_forms_have_the_rounding_of_their_type(cols: int) -> None:
    form = Form(plain=True, fp8=True)
    x, grad = drawn(70, cols, dtype=torch.bfloat16).cuda(), drawn(70, cols, dtype=torch.bfloat16, seed=1).cuda()
    weight = drawn(cols, dtype=torch.bfloat16, seed=2).cuda()
    parameters = Norm(weight, weight, 1e-5, rms=False)
    normed = kernels.norm(x, [grad], parameters, form=form)
    some = [
        normed.rows,
        kernels.norm_backward(grad, normed.total, normed.stats, parameters, x, form),
        kernels.activate(x, "gelu", False, weight, form),
        kernels.activate_backward(grad.clone(), x, "gelu", False, weight, form),
        kernels.activate(x, "silu", True, weight, form),
        kernels.activate_backward(grad[:, : cols // 2].contiguous(), x, "silu", True, weight, form),
        kernels.in_form(x, form),
    ]
    for rows in some:
        assert rows.fp8 is not None and rows.scale is not None
        again = rows.fp8.float() * rows.scale
        # Three bits behind the point: rounding errors of up to 1/16, 2.6 % on the root mean square.
        assert ((again - rows.tensor.float()).norm() / rows.tensor.float().norm()).item() < 0.035
        assert rows.fp8.float().abs().amax(1).tolist() == pytest.approx([448.0] * 70)
