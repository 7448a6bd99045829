"""The Triton kernels on a CPU, by Triton's interpreter (``TRITON_INTERPRET=1``, which ``tests/conftest.py`` sets).

The interpreter has no matrix product of bfloat16 and truncates where it converts to fewer bits; ``tests/gpu`` checks
both.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from llm_cls.engine import attention, kernels, layer_pass, lora_products, projection
from llm_cls.engine.kernels import ACTIVATIONS
from llm_cls.engine.lora_products import SavedDown
from llm_cls.engine.spec import Scores

from . import kernel_checks as checks
from . import test_joint
from .attention_checks import check_attention
from .networks import batch, build, compare, fused

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None, reason="needs Triton and its interpreter"
)

dtypes = pytest.mark.parametrize("dtype", checks.TOLERANCE)


@dtypes
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize(("n_addends", "biased"), [(0, False), (0, True), (1, True), (2, True)])
def test_norm(n_addends: int, biased: bool, rms: bool, dtype: torch.dtype) -> None:
    checks.check_norm("cpu", dtype, rms, n_addends, biased, rows=5, cols=96)


@dtypes
def test_norm_of_a_sum_with_a_norm_in_it(dtype: torch.dtype) -> None:
    checks.check_norm("cpu", dtype, True, 1, False, rows=5, cols=96, post=True)


@dtypes
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS.values())))
@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # of NumPy: the sigmoid is 0
def test_activate(activation: str, gated: bool, biased: bool, dtype: torch.dtype) -> None:
    checks.check_activate("cpu", dtype, activation, gated, biased, rows=3, cols=1100)


@dtypes
@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize("half", [8, 16])
def test_rotate(half: int, kv_heads: int, dtype: torch.dtype) -> None:
    checks.check_rotate("cpu", dtype, half, 6, kv_heads, tokens=5)


@dtypes
@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize("half", [8, 16])
def test_head_norms(half: int, kv_heads: int, dtype: torch.dtype) -> None:
    checks.check_head_norms("cpu", dtype, half, 6, kv_heads, tokens=5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_attention(heads: int, kv_heads: int) -> None:
    check_attention("cpu", torch.float32, heads, kv_heads, 32, [1, 70, 64, 65], Scores(0.1))


@pytest.mark.parametrize("scores", [Scores(0.1, window=2), Scores(0.1, 40), Scores(0.1, softcap=0.5), Scores(1, 70, 3)])
def test_attention_with_window_and_soft_cap(scores: Scores) -> None:
    check_attention("cpu", torch.float32, 2, 1, 32, [1, 140, 64], scores)


@pytest.mark.parametrize("scores", [Scores(0.1), Scores(0.1, softcap=0.5)])
def test_attention_with_large_heads(scores: Scores) -> None:
    check_attention("cpu", torch.float32, 2, 1, 256, [1, 70], scores)


def test_attention_over_several_blocks() -> None:
    check_attention("cpu", torch.float32, 2, 1, 64, [65, 300, 1], Scores(0.1, softcap=0.5))


def test_dropout() -> None:
    checks.check_dropout("cpu", 32, 2000)


def test_casts() -> None:
    checks.check_casts("cpu", torch.float32)


@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize(("rows", "cols", "n", "r"), [(70, 200, 3, 8), (300, 132, 1, 12), (5, 96, 2, 4)])
def test_lora_products(rows: int, cols: int, n: int, r: int, p: float) -> None:
    checks.check_lora("cpu", torch.float32, rows, cols, n, r, p)


@pytest.mark.parametrize("cols", [96, 2200])
def test_fp8(cols: int) -> None:
    checks.check_fp8("cpu", 3, cols, tolerance=0.1)  # the interpreter rounds 7.76 to 4: it loses the carry


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the network as on a GPU in float32: kernels, pending biases, columns beside the weights."""
    monkeypatch.setattr(kernels, "uses_triton", lambda x: True)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether one product has computed both terms, of each projection with adapters."""
    found: list[bool] = []

    def down(*given: Any) -> SavedDown:
        found.append(len(given) == 5)  # the last one is where the result goes
        return lora_products.down(*given)

    monkeypatch.setattr(projection, "down", down)
    return found


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("architecture", ["neox", "neox-parallel", "llama-biased"])
def test_a_network_of_kernels_is_the_reference(architecture: str, joined: list[bool]) -> None:
    overrides = ("lora.lora_dropout=0", "lora.target_modules=all-linear", "lora.r=8")
    layer = fused(build("fast", architecture, *overrides)).network.layers[0]
    assert layer.pending_bias is not None and layer.up.operand_format(9).extra_columns >= 8
    compare(architecture, [[3, 5, 1]], "fused", *overrides)
    assert joined == [True, False, True, True] * 2  # PyTorch's attention leaves no columns behind its output


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("architecture", ["qwen3-windowed", "gemma2", "gemma3-local-last"])
def test_kernels_of_head_norms_and_post_norms_are_the_reference(architecture: str) -> None:
    compare(architecture, [[3, 9, 1]], "fused", "lora.lora_dropout=0", "lora.target_modules=all-linear", "lora.r=8")


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("architecture", ["mistral-windowed", "qwen3-windowed", "gemma2"])
def test_attention_kernels_that_reach_the_projection_are_the_reference(
    architecture: str, monkeypatch: pytest.MonkeyPatch, joined: list[bool]
) -> None:
    """In all layers but the last, in which the window or the soft cap leaves no other kernel."""
    for name in ("has_attention_kernel", "_has_triton_kernel"):
        monkeypatch.setattr(attention, name, lambda *_: True)
    reached = []

    def reaches(*arguments: Any) -> bool:
        reached.append(attention.reaches_projection(*arguments))
        return reached[-1]

    monkeypatch.setattr(layer_pass, "reaches_projection", reaches)
    compare(architecture, [[3, 9, 1]], "fused", "lora.lora_dropout=0", "lora.target_modules=all-linear", "lora.r=8")
    assert reached == [False, True]
    assert joined == [True] * 5 + [False, True, True]  # the last layer's attention leaves no columns behind its output


@pytest.mark.usefixtures("interpreted")
def test_wide_rows_are_vectors_with_rank_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """One number at a time, which is how Triton reads other rows, rank 8 took 14 % longer than 16."""
    wide = []
    kernel_class = import_module("llm_cls.engine.triton.launch").Kernel
    start = kernel_class.__getitem__

    def record(kernel: Any, grid: tuple[int, ...]) -> Any:
        def run(*arguments: Any, **constants: Any) -> None:
            tensors = [x for x in arguments if isinstance(x, torch.Tensor) and x.ndim > 1]
            wide.extend(x.stride(0) for x in tensors if x.stride(0) >= hidden_size)
            start(kernel, grid)(*arguments, **constants)

        return run

    monkeypatch.setattr(kernel_class, "__getitem__", record)
    model = build("fast", "qwen3", "lora.target_modules=all-linear", "lora.r=8")
    hidden_size = fused(model).network.layers[0].up.weight.shape[1]
    model(batch([2, 1])).square().sum().backward()
    assert wide and not any(stride % 16 for stride in wide)


@pytest.mark.slow  # the interpreter takes a minute for each
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("architecture", ["neox-parallel", "llama-biased", "gemma3"])
def test_several_runs_in_one_pass_of_kernels(architecture: str) -> None:
    """Each with the masks that it has alone, also in the last layer, and with the columns that lie beside weights."""
    test_joint.test_each_run_gets_what_it_gets_alone(architecture)


@pytest.mark.usefixtures("interpreted")
def test_parts_of_a_batch_have_the_dropout_masks_of_the_whole() -> None:
    """Also where layers are recomputed, and in the last layer, whose rows are the last tokens."""
    found = []
    for max_tokens, recompute in ((None, "false"), (3, "true")):
        overrides = ("lora.lora_dropout=0.3", "lora.target_modules=[query_key_value,dense]", "lora.r=4")
        model = build("fast", "neox", f"engine.gradient_checkpointing={recompute}", *overrides)
        torch.manual_seed(7)
        parts = batch([3, 2]).split(max_tokens)
        torch.cat([model(part) for part in parts]).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert len(parts) == 2 and len(found[0]) == 2 * 4 + 1
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)
