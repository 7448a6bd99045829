"""Matrix products, against PyTorch's."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm_cls.engine.products import linear, product_over_rows

COLUMNS = torch.randn(40, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("weight", [COLUMNS[:, :16], COLUMNS[:, :40].t()[:, :16], COLUMNS[::2, :16]])
def test_a_slice_is_multiplied_as_its_copy_is(weight: torch.Tensor) -> None:
    """oneDNN has a slow kernel for weights that are not dense; its results differ in the last bits."""
    x = torch.randn(8, 16)
    assert torch.equal(linear(x, weight), linear(x, weight.contiguous()))
    torch.testing.assert_close(linear(x, weight), x @ weight.t())


@pytest.mark.parametrize(("p", "q"), [(8, 24), (24, 8)])
def test_the_product_over_rows_takes_slices(p: int, q: int) -> None:
    a, b = COLUMNS[:, :p], COLUMNS[:, -q:]
    out = torch.zeros(p + 2, q)
    product_over_rows(a, b, out[1:-1])
    torch.testing.assert_close(out[1:-1], a.t() @ b)
    assert not out[0].any() and not out[-1].any()


_GROWTH = """
import torch
from llm_cls.engine.products import limit_caches, linear
{limit}
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4 // 1024  # MiB, of pages of 4 KiB
weight, before = torch.ones(64, 64), 0
for rows in range(100, 1000):
    linear(torch.ones(rows, 64), weight)
    before = before or (resident() if rows == 300 else 0)
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to count memory")
def test_products_of_ever_new_shapes_take_bounded_memory() -> None:
    """A process of its own, because the limit holds from the first product on. Without it memory grows by 418 MiB."""

    def growth(limit: str) -> int:
        code = _GROWTH.format(limit=limit)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert growth("limit_caches()") <= 100
