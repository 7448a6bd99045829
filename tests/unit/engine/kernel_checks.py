"""Checks of the Triton kernels against their PyTorch definitions in float64, for a GPU and for Triton's interpreter.

The kernels' own functions are called, because ``kernels.py`` takes them for tensors on a GPU alone.
"""

from importlib import import_module
from itertools import product
from typing import Any

import torch
from torch import Tensor

from llm_cls.engine import kernels
from llm_cls.engine.head_norms import rotate_heads, rotate_heads_backward
from llm_cls.engine.spec import AttentionSpec, HeadInputs, RotaryTable, Scores
from llm_cls.engine.tensors import UNQUANTIZED, AdapterPart, DropoutMask, DropoutState, Norm, OperandFormat, Stream

# Rounding to bfloat16 has a root mean square error of 2e-3; the interpreter truncates, which doubles the error.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3}


def triton(name: str) -> Any:
    return import_module(f"llm_cls.engine.triton.{name}")


def normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(found: Tensor, expected: Tensor) -> float:
    return ((found.double().cpu() - expected).norm() / expected.norm()).item()


def check(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    truncated = dtype == torch.bfloat16 and not found.is_cuda
    assert error(found, expected) <= TOLERANCE[dtype] * (2 if truncated else 1)


def check_norm(
    device: str, dtype: torch.dtype, rms: bool, n_addends: int, biased: bool, rows: int, cols: int, post: bool = False
) -> None:
    weight, bias = normal(cols, dtype=dtype, seed=1), normal(cols, dtype=dtype, seed=2)
    exact = Norm(weight.double(), None if rms else bias.double(), 1e-5, rms)
    ours = Norm(weight.to(device), None if rms else bias.to(device), 1e-5, rms)
    x, grad, residual, *addends = (normal(rows, cols, dtype=dtype, seed=3 + i) for i in range(3 + n_addends))
    pending = normal(cols, dtype=dtype, seed=9) if biased else None
    post_weight = normal(cols, dtype=dtype, seed=10)
    stream, exact_stream = (
        Stream(
            change(x),
            [change(a) for a in addends],
            None if pending is None else change(pending),
            Norm(change(post_weight), None, 1e-3, rms=True) if post else None,
        )
        for change in (lambda t: t.to(device), torch.Tensor.double)
    )
    exact2 = Norm(bias.double(), None if rms else weight.double(), 1e-5, rms)
    ours2 = Norm(bias.to(device), None if rms else weight.to(device), 1e-5, rms)
    for n in (1, 2):  # norms of the sum
        second, exact_second = ((norm, UNQUANTIZED) if n == 2 else None for norm in (ours2, exact2))
        found = triton("norm").norm(stream, ours, UNQUANTIZED, second)
        expected = kernels.norm(exact_stream, exact, UNQUANTIZED, exact_second)
        check(found.total, expected.total, dtype)
        check(found.normed.tensor, expected.normed.tensor, dtype)
        if n == 2:
            check(found.second.tensor, expected.second.tensor, dtype)
    for rest, grad2 in product((None, residual), (None, normal(rows, cols, dtype=dtype, seed=11))):
        given, exact_given = (None, None) if rest is None else (rest.to(device), rest.double())
        second, exact_second = (None, None) if grad2 is None else ((grad2.to(device), ours2), (grad2.double(), exact2))
        result = triton("norm").norm_backward(grad.to(device), found.total, ours, given, UNQUANTIZED, second)
        exact_total = found.total.double().cpu()
        wanted = kernels.norm_backward(grad.double(), exact_total, exact, exact_given, UNQUANTIZED, exact_second)
        check(result.tensor, wanted.tensor, dtype)


def check_activate(
    device: str, dtype: torch.dtype, activation: str, gated: bool, biased: bool, rows: int, cols: int
) -> None:
    x, grad = 3 * normal(rows, 2 * cols if gated else cols, dtype=dtype), normal(rows, cols, dtype=dtype, seed=1)
    bias = normal(x.shape[1], dtype=dtype, seed=2) if biased else None
    exact, ours = (None, None) if bias is None else (bias.double(), bias.to(device))
    found = triton("activation").activate(x.to(device), activation, gated, ours, UNQUANTIZED)
    check(found.tensor, kernels.activate(x.double(), activation, gated, exact).tensor, dtype)
    expected = kernels.activate_backward(grad.double(), x.double(), activation, gated, exact)
    found = triton("activation").activate_backward(grad.to(device), x.to(device), activation, gated, ours, UNQUANTIZED)
    check(found.tensor, expected.tensor, dtype)


def check_rotate(device: str, dtype: torch.dtype, half: int, heads: int, kv_heads: int, tokens: int = 17) -> None:
    position_ids = torch.arange(tokens, dtype=torch.int32) % (tokens // 2 + 1)
    cos, sin = (normal(9, half, dtype=torch.float32, seed=i) for i in range(2))
    tables = position_ids.to(device), cos.to(device), sin.to(device)
    sizes = [heads, kv_heads, kv_heads]
    joined = normal(tokens, sum(sizes), 32, dtype=dtype)
    exact = joined.double().split(sizes, 1)
    kernels.rotate(exact, exact, position_ids, cos.double(), sin.double(), 1)
    found = joined.clone().to(device).split(sizes, 1)
    triton("rotary").rotate(found, found, *tables, 1)
    for ours, wanted in zip(found, exact, strict=True):
        check(ours, wanted, dtype)
    source, target = joined.double().split(sizes, 1), [torch.zeros(tokens, n, 32, dtype=torch.float64) for n in sizes]
    kernels.rotate(source, target, position_ids, cos.double(), sin.double(), -1)
    moved = torch.zeros(tokens, sum(sizes), 32, dtype=dtype, device=device).split(sizes, 1)
    triton("rotary").rotate([x.to(device) for x in joined.split(sizes, 1)], moved, *tables, -1)
    for ours, wanted in zip(moved, target, strict=True):
        check(ours, wanted, dtype)


def check_head_norms(device: str, dtype: torch.dtype, half: int, heads: int, kv_heads: int, tokens: int = 17) -> None:
    """Forward into other tensors and in place, backward from other tensors and in place."""
    sizes, size = [heads, kv_heads, kv_heads], 32
    position_ids = torch.arange(tokens, dtype=torch.int32) % (tokens // 2 + 1)
    rotary = RotaryTable(*(normal(9, half, dtype=torch.float32, seed=i) for i in range(2)))
    weights = [1 + 0.3 * normal(size, dtype=torch.float32, seed=2 + i) for i in range(2)]
    exact = [Norm(weight.double(), None, 1e-5, rms=True) for weight in weights]
    ours = [Norm(weight.to(device), None, 1e-5, rms=True) for weight in weights]
    joined, grad = (normal(tokens, sum(sizes), size, dtype=dtype, seed=4 + i) for i in range(2))
    spec = AttentionSpec(heads, kv_heads, size, False, Scores(1.0), *exact)
    wide = RotaryTable(rotary.cos.double(), rotary.sin.double())
    expected, saved = rotate_heads(joined.double().flatten(1), spec, position_ids, wide, save=True)
    wanted = torch.empty(tokens, sum(sizes), size, dtype=torch.float64).split(sizes, 1)
    rotate_heads_backward(grad.double().split(sizes, 1), wanted, HeadInputs(spec, wide, saved), position_ids)
    tables = ours, position_ids.to(device), rotary.cos.to(device), rotary.sin.to(device)
    source = joined.to(device).split(sizes, 1)
    kernel = triton("head_norms")
    for place in (torch.full_like(joined, float("nan")), joined.clone()):
        target = place.to(device).split(sizes, 1)
        kernel.norm_and_rotate(source if place.isnan().any() else target, target, *tables)
        for found, value in zip(target, expected, strict=True):
            check(found, value, dtype)
    for place in (torch.full_like(joined, float("nan")), grad.clone()):
        target = place.to(device).split(sizes, 1)
        upper = grad.to(device).split(sizes, 1) if place.isnan().any() else target
        kernel.norm_and_rotate_backward(upper, target, source[:2], *tables)
        for found, value in zip(target, wanted, strict=True):
            check(found, value, dtype)


def kept(keep: Tensor, cols: int) -> Tensor:
    """The masks of all adapters as booleans, shape ``(n, rows, cols)``; the definition of the bits' places."""
    bits = keep[..., None].int() >> torch.arange(8, device=keep.device) & 1
    return bits.flatten(2)[..., :cols].bool()


def check_dropout(device: str, rows: int, cols: int) -> Tensor:
    """The rate, and masks that are independent and depend on the token alone; returns what is kept."""

    def draw(seed: int, first_token: int, stream: int, n: int, rows: int, indices: Tensor | None = None) -> Tensor:
        state = DropoutState(torch.tensor([seed, first_token], device=device), indices)
        return kept(triton("lora").draw(DropoutMask(0.1, state, stream), n, rows, cols), cols)

    mask = draw(7, 0, 3, 1, rows)
    rate = 1 - mask.double().mean().item()
    assert abs(rate - 0.1) <= 5 * (0.09 / mask.numel()) ** 0.5
    assert torch.equal(draw(7, 10, 3, 1, rows - 10), mask[:, 10:])
    chosen = torch.tensor([rows - 1, 4, 9], device=device)
    assert torch.equal(draw(7, 0, 3, 1, 3, chosen), mask[:, chosen])
    both = draw(7, 0, 2, 2, rows)
    assert torch.equal(both[1], mask[0])
    for other in (draw(8, 0, 3, 1, rows), both[:1]):
        dropped = (~other & ~mask).double().mean().item()
        assert abs(dropped - 0.01) <= 5 * (0.0099 / mask.numel()) ** 0.5, "the masks are independent"
    return mask[0]


def check_lora(device: str, dtype: torch.dtype, rows: int, cols: int, n: int, r: int, p: float) -> None:
    """The three products in float64, with inputs that are columns of wider tensors."""
    lora = triton("lora")
    x, total = (normal(rows, cols + 8, dtype=dtype, seed=i).to(device)[:, :cols] for i in range(2))
    a, grad = (
        normal(n * r, cols, dtype=dtype, seed=2).to(device),
        normal(rows, n * r + 4, dtype=dtype, seed=3).to(device),
    )
    grad = grad[:, : n * r]
    mask = DropoutMask(p, DropoutState(torch.tensor([7, 5], device=device)), 3)
    keep, factors = None, [1.0] * n
    if p:
        keep = lora.draw(mask, n, rows, cols)
        factors = list(kept(keep, cols).double().cpu() * 65536 / (65536 - round(65536 * p)))
    wide = [tensor.double().cpu() for tensor in (x, a, grad, total)]
    weights, grads = wide[1].chunk(n), wide[2].chunk(n, 1)
    out = torch.zeros(rows, n * r + 8, dtype=dtype, device=device)
    lora.down(x, a, n, keep, mask.factor, out[:, : n * r])
    check(out[:, : n * r], torch.cat([wide[0] * f @ w.t() for f, w in zip(factors, weights, strict=True)], 1), dtype)
    assert not out[:, n * r :].any()
    expected = torch.cat([g.t() @ (wide[0] * f) for f, g in zip(factors, grads, strict=True)])
    found = torch.full((n * r, cols), torch.nan, device=device)
    lora.weight_grad(x, grad, n, keep, mask.factor, found)
    check(found, expected, torch.float32)
    part = AdapterPart(grad, a, n, keep, mask.factor)
    added = sum((g @ w) * f for f, g, w in zip(factors, grads, weights, strict=True))
    for gated, biased in ((False, False), (True, True)):  # while an activation's backward pass reads the gradient
        hidden = normal(rows, cols * (2 if gated else 1), dtype=dtype, seed=4)
        bias = normal(hidden.shape[1], dtype=dtype, seed=5) if biased else None
        kind = hidden.to(device), "silu", gated, None if bias is None else bias.to(device), UNQUANTIZED
        result = triton("activation").activate_backward(total.clone(), *kind, part)
        exact = hidden.double(), "silu", gated, None if bias is None else bias.double()
        check(result.tensor, kernels.activate_backward(wide[3] + added, *exact).tensor, dtype)
    lora.add_input_grad(total, part)
    check(total, wide[3] + added, dtype)


def check_casts(device: str, dtype: torch.dtype) -> None:
    """Weights of more than a program's elements, of which some casts are columns of wider tensors."""
    casts = triton("casts")
    made = []
    for seed, (rows, cols) in enumerate([(300, 12), (12, 1000), (7, 1), (64, 4096)]):
        weight, wide = normal(rows, cols, dtype=torch.float32, seed=seed), torch.zeros(rows + 2, cols + 8, dtype=dtype)
        wide = wide.to(device)
        made.append((weight.to(device), wide[1:-1, 4 : cols + 4], 0.5 + seed, wide))
    casts.cast(*casts.table([entry[:3] for entry in made]), *made[0][:2])
    for weight, found, factor, wide in made:
        assert torch.equal(found, (weight * factor).to(dtype))
        assert not any(part.any() for part in (wide[0], wide[-1], wide[:, :4], wide[:, -4:])), "nothing else is written"


def check_fp8(device: str, rows: int, cols: int, tolerance: float) -> None:
    """Each function that can give float8 gives the values that it also gives unquantized, and uses the whole range."""
    both = OperandFormat(values=True, fp8=True)
    x, grad = (normal(rows, cols, dtype=torch.bfloat16, seed=i).to(device) for i in range(2))
    weight = normal(cols, dtype=torch.bfloat16, seed=2).to(device)
    parameters = Norm(weight, weight, 1e-5, rms=False)
    norm, activation = triton("norm"), triton("activation")
    normed = norm.norm(Stream(x, [grad]), parameters, both, (parameters, both))
    operands = [
        normed.normed,
        normed.second,
        norm.norm_backward(grad, normed.total, parameters, x, both),
        activation.activate(x, "gelu", False, weight, both),
        activation.activate_backward(grad.clone(), x, "gelu", False, weight, both),
        activation.activate(x, "silu", True, weight, both),
        activation.activate_backward(grad[:, : cols // 2].contiguous(), x, "silu", True, weight, both),
        norm.quantize(x),
    ]
    for operand in operands:
        assert error(operand.fp8.float() * operand.scale, operand.tensor.double().cpu()) < tolerance
        top = operand.fp8.float().abs().amax(1)
        assert (top == 448).all() if device == "cuda" else (top >= 416).all()
