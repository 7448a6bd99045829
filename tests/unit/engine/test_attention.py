"""Attention over packed texts against the softmax that it is."""

import pytest
import torch
from torch import Tensor

from llm_cls.engine.attention import attend, attend_backward
from llm_cls.engine.packing import PackedLayout
from llm_cls.engine.spec import Scores

SEQ_LENS = [1, 5, 5, 3]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, rule: Scores) -> Tensor:
    """Every token against every token, with a mask of text and order."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    text = torch.repeat_interleave(torch.tensor(layout.seq_lens))
    order = torch.arange(len(text))
    visible = (text[:, None] == text) & (order[:, None] >= order)
    if rule.window is not None:
        visible &= order[:, None] - order < rule.window
    scores = torch.einsum("qhd,khd->hqk", q, k) * rule.scaling
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("only_last", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(
    "scores", [Scores(0.3), Scores(0.3, window=3), Scores(0.3, softcap=0.5), Scores(0.3, 2, 0.5), Scores(0.3, 9)]
)
def test_attention_is_the_masked_softmax(scores: Scores, kv_heads: int, only_last: bool) -> None:
    layout = PackedLayout.of(SEQ_LENS, 8, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(sum(SEQ_LENS), n, 8, dtype=torch.float64, generator=generator, requires_grad=True)
        for n in (4, kv_heads, kv_heads)
    )
    expected = softmax_attention(q, k, v, layout, scores)
    queries = q
    if only_last:
        expected, queries = expected[layout.last_tokens], q[layout.last_tokens]
    output, saved = attend(queries.detach(), k.detach(), v.detach(), layout, scores, only_last, save=True)
    torch.testing.assert_close(output, expected)
    assert saved is not None
    grad = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    dq, dk, dv = attend_backward(saved, grad, layout, scores, only_last, ())
    wanted = torch.autograd.grad(expected, (q, k, v), grad)
    torch.testing.assert_close(dq, wanted[0][layout.last_tokens] if only_last else wanted[0])
    torch.testing.assert_close((dk, dv), wanted[1:])
    assert attend(queries.detach(), k.detach(), v.detach(), layout, scores, only_last, save=False)[1] is None


def test_layout_of_packed_texts() -> None:
    layout = PackedLayout.of(SEQ_LENS, 8, torch.device("cpu"))
    assert layout.position_ids.tolist() == [i for n in SEQ_LENS for i in range(n)]
    assert layout.cu_seqlens.tolist() == [0, 1, 6, 11, 14] and layout.cu_seqlens.dtype == torch.int32
    assert layout.last_tokens.tolist() == [0, 5, 10, 13]
