"""The Triton kernels on a GPU against their PyTorch definitions in float64."""

import pytest
import torch

from llm_cls.engine.attention import TRITON_HEAD_SIZES, attend, attend_backward, packed_sdpa
from llm_cls.engine.kernels import ACTIVATIONS
from llm_cls.engine.packing import PackedLayout
from llm_cls.engine.products import product_over_rows
from llm_cls.engine.spec import Scores
from tests.unit.engine import kernel_checks as checks
from tests.unit.engine.attention_checks import SCORES, check_attention

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

dtypes = pytest.mark.parametrize("dtype", checks.TOLERANCE)


@dtypes
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("cols", [96, 2816])
@pytest.mark.parametrize(("n_addends", "biased"), [(0, False), (0, True), (1, True), (2, True)])
def test_norm(n_addends: int, biased: bool, cols: int, rms: bool, dtype: torch.dtype) -> None:
    checks.check_norm("cuda", dtype, rms, n_addends, biased, rows=33, cols=cols)


@dtypes
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS.values())))
def test_activate(activation: str, gated: bool, biased: bool, dtype: torch.dtype) -> None:
    checks.check_activate("cuda", dtype, activation, gated, biased, rows=17, cols=3000)


@dtypes
@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize("half", [8, 16])
def test_rotate(half: int, kv_heads: int, dtype: torch.dtype) -> None:
    checks.check_rotate("cuda", dtype, half, 6, kv_heads)


@dtypes
@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize("half", [8, 16])
def test_head_norms(half: int, kv_heads: int, dtype: torch.dtype) -> None:
    checks.check_head_norms("cuda", dtype, half, 6, kv_heads)


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(6, 6, 128), (4, 2, 64), (4, 4, 32), (4, 1, 256)])
def test_attention(heads: int, kv_heads: int, size: int, scores: Scores) -> None:
    check_attention("cuda", torch.bfloat16, heads, kv_heads, size, [1, 200, 64, 512, 65, 31], scores)


@pytest.mark.parametrize("only_last", [False, True])
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"), [(6, 6, 128), (4, 4, 80), (4, 2, 96), (4, 2, 64), (4, 1, 256), (4, 2, 256)]
)
def test_attend_takes_every_head_size(heads: int, kv_heads: int, size: int, scores: Scores, only_last: bool) -> None:
    """Sizes without a Triton kernel take PyTorch's, which returns new tensors; soft caps for them have no kernel."""
    seq_lens, sizes = [1, 200, 65], [heads, kv_heads, kv_heads]
    joined = checks.normal(sum(seq_lens), sum(sizes), size, dtype=torch.bfloat16)
    exact = [x.requires_grad_() for x in joined.double().split(sizes, 1)]
    expected = packed_sdpa(*exact, seq_lens, scores.scaling, window=scores.window, softcap=scores.softcap)
    layout = PackedLayout.of(seq_lens, 512, torch.device("cuda"))
    q, k, v = joined.cuda().split(sizes, 1)
    if only_last:
        last = layout.last_tokens
        q, expected = q[last], expected[last.cpu()]
    grad = checks.normal(*expected.shape, dtype=torch.bfloat16, seed=1)
    output, saved = attend(q, k, v, layout, scores, only_last, save=True)
    assert saved is not None
    target = torch.full_like(joined, float("nan")).cuda().split(sizes, 1)
    found = attend_backward(saved, grad.cuda(), layout, scores, only_last, target)
    if not only_last:
        assert (found is target) == (size in TRITON_HEAD_SIZES)
    checks.check(output, expected.detach(), torch.bfloat16)
    wanted = list(torch.autograd.grad(expected, exact, grad.double()))
    if only_last:
        wanted[0] = wanted[0][layout.last_tokens.cpu()]
    for ours, value in zip(found, wanted, strict=True):
        assert checks.error(ours, value) <= 8e-3


def test_dropout() -> None:
    dropped = ~checks.check_dropout("cuda", 2048, 2816)
    assert dropped.double().mean(0).std().item() == pytest.approx((0.09 / 2048) ** 0.5, rel=0.1)
    assert dropped.double().mean(1).std().item() == pytest.approx((0.09 / 2816) ** 0.5, rel=0.1)


@dtypes
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize(("rows", "cols", "n", "r"), [(700, 640, 3, 32), (1000, 2816, 1, 64), (33, 1100, 2, 12)])
def test_lora_products(rows: int, cols: int, n: int, r: int, p: float, dtype: torch.dtype) -> None:
    checks.check_lora("cuda", dtype, rows, cols, n, r, p)


@dtypes
def test_casts(dtype: torch.dtype) -> None:
    checks.check_casts("cuda", dtype)


@dtypes
def test_the_product_over_rows_keeps_all_bits(dtype: torch.dtype) -> None:
    a, b = (checks.normal(3000, 96, dtype=dtype, seed=i).cuda()[:, i : i + 32 * i + 32] for i in range(2))
    out = torch.full((34, 64), torch.nan, device="cuda")
    product_over_rows(a, b, out[1:-1])
    checks.check(out[1:-1], a.double().cpu().t() @ b.double().cpu(), torch.float32)
    assert out[0].isnan().all() and out[-1].isnan().all()


@pytest.mark.parametrize("cols", [256, 11264])
def test_fp8_has_the_rounding_of_its_type(cols: int) -> None:
    """Three bits after the binary point: rounding errors of up to 1/16, 2.6 % on the root mean square."""
    checks.check_fp8("cuda", 70, cols, tolerance=0.035)
