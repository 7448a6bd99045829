"""The benchmark: its table, its file, what fits."""

import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from llm_cls.data.batches import Batch
from llm_cls.training import speed
from llm_cls.training.run import prepare
from llm_cls.training.shared import Shared
from tests.unit.model.test_model import config

from .conftest import SHIPPED_MODEL, Command


def test_benchmark(command: Command, archive: Path, tmp_path: Path) -> None:
    line = [*SHIPPED_MODEL, f"data.archive={archive}", "engine=fast,reference", "concurrent=1,3"]
    line += ["steps=2", "warmup=1", "data.batch_size=5"]  # of two, the median is the mean
    done = command("benchmark", *line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "outputs" / "benchmark").iterdir()
    assert done.stdout.strip().endswith(f"Written to {path.relative_to(tmp_path)}")
    record = json.loads(path.read_text())
    fast, together, reference = record["results"]
    assert [row["runs"] for row in record["results"]] == [1, 3, 1] and together["layers"] == "fused"
    for row in record["results"]:
        assert row["texts_per_second"] * row["step_seconds"] == pytest.approx(5 * row["runs"]), (
            "a step is one of each run"
        )
    tokens_per_text = [row["tokens_per_second"] / row["texts_per_second"] for row in (fast, together)]
    assert tokens_per_text[0] == pytest.approx(tokens_per_text[1], rel=0.3)  # some of the texts differ
    assert together["times_reference"] == pytest.approx(3 * reference["step_seconds"] / together["step_seconds"])
    assert (fast["engine"], reference["engine"], reference["times_reference"]) == ("fast", "reference", 1)
    assert (fast["layers"], reference["layers"]) == ("fused", "padded")
    assert fast["times_reference"] == pytest.approx(reference["step_seconds"] / fast["step_seconds"])
    for row in (fast, reference):
        low, high = row["step_seconds_spread"]
        assert 0 < low <= row["step_seconds"] <= high and row["steps"] == 2
        assert row["epoch_seconds"] == pytest.approx(row["step_seconds"] * 20)  # 96 of 120 texts, by 5
        assert row["matmul_fraction"] == pytest.approx(row["tflops"] / record["matmul_tflops"])
        assert row["largest_micro_batch"] == 5
        assert row["evaluation_tokens_per_second"] > 0 and row["peak_memory_gib"] > 0
        # ja-mini's layers have 12 * 256^2 weights each; the head and the adapters are trained
        layers = 6 * 12 * 256**2
        assert 4 * layers < row["tflops"] * 1e12 / row["tokens_per_second"] < 4.5 * layers
    assert record["versions"]["torch"] == torch.__version__ and "CPU" in record["device"]
    table = done.stdout.splitlines()
    assert [text.split()[0] for text in table[1:4]] == ["engine", "fast", "fast"]
    assert not (tmp_path / "outputs" / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["steps=0"], "steps must be >= 1, got '0'"),
        (["concurrent=1,0"], "concurrent must be whole numbers >= 1, separated by commas, got '1,0'"),
        (["warmup=²"], "warmup must be a whole number, got '²'"),
        (["output=.", "data=sample"], "output=. is a folder"),
        (["fit=maybe"], "fit must be true or false, got 'maybe'"),
        (["engine=fast,quick"], "engine=quick is not a choice. Known: fast, fp8, reference."),
        (["optimizer.lrr=1"], "optimizer.lrr is not a key"),
    ],
)
def test_what_the_benchmark_refuses(command: Command, arguments: list[str], part: str, tmp_path: Path) -> None:
    done = command("benchmark", "model=ja-mini", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and part in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 13])
def test_the_largest_micro_batch_is_the_largest(limit: int, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much fails in the forward pass or in the backward pass, which must leave nothing behind."""
    held: list[int] = []

    class Tape:
        pass

    class Held(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, texts: int) -> torch.Tensor:
            ctx.tape = Tape()
            held.append(texts)
            weakref.finalize(ctx.tape, held.remove, texts)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            if sum(held) > limit:
                raise torch.OutOfMemoryError
            ctx.tape = None
            return grads[0], None

    class Full(nn.Module):
        def forward(self, batch: Batch) -> torch.Tensor:
            texts = len(batch.lengths)
            if sum(held) + texts > limit and texts % 2:
                raise torch.OutOfMemoryError
            found: torch.Tensor = Held.apply(torch.ones(1, requires_grad=True), texts)  # type: ignore[no-untyped-call]
            return found

    made = config("trainer=cpu", f"data.archive={archive}", "data.max_length=32", "data.batch_size=9")
    inputs = prepare(made, Shared())
    module = SimpleNamespace(classifier=Full(), zero_grad=lambda: None)
    monkeypatch.setattr(speed, "build_module", lambda *_: module)
    assert speed.largest_micro_batch(inputs) == min(limit, 9)
