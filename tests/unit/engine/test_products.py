"""Matrix products, against PyTorch's."""

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
    torch.testing.assert_close(product_over_rows(a, b), a.t() @ b)
