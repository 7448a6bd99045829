"""The Triton kernels on a CPU, by Triton's interpreter (``TRITON_INTERPRET=1``, which ``tests/conftest.py`` sets).

The interpreter has no matrix product of bfloat16 and truncates where it converts to fewer bits; ``tests/gpu`` checks
both.
"""

import os
from importlib.util import find_spec

import pytest
import torch

from llm_cls.engine.kernels import ACTIVATIONS

from . import kernel_checks as checks

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None, reason="needs Triton and its interpreter"
)

dtypes = pytest.mark.parametrize("dtype", checks.TOLERANCE)


@dtypes
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("n_addends", [0, 1, 2])
def test_norm(n_addends: int, rms: bool, dtype: torch.dtype) -> None:
    checks.check_norm("cpu", dtype, rms, n_addends, rows=5, cols=96)


@dtypes
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS.values())))
@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # of NumPy; the sigmoid is 0 there
def test_activate(activation: str, gated: bool, biased: bool, dtype: torch.dtype) -> None:
    checks.check_activate("cpu", dtype, activation, gated, biased, rows=3, cols=1100)


@dtypes
@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize("half", [8, 16])
def test_rotate(half: int, kv_heads: int, dtype: torch.dtype) -> None:
    checks.check_rotate("cpu", dtype, half, 6, kv_heads)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_attention(heads: int, kv_heads: int) -> None:
    checks.check_attention("cpu", torch.float32, heads, kv_heads, 32, [1, 70, 64])


def test_dropout() -> None:
    checks.check_dropout("cpu", 32, 2000)


def test_fp8() -> None:
    checks.check_fp8("cpu", 3, 96, tolerance=0.08)
