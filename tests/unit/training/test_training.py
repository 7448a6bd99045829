"""Optimizer, batches, evaluation and identity against their definitions."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llm_cls.config.compose import compose_tree
from llm_cls.config.schema import OptimizerConfig, parse_config
from llm_cls.data.batches import EvalBatches, TrainSteps, step_indices
from llm_cls.data.tokens import Tokens
from llm_cls.errors import ArtifactError, OtherRunError
from llm_cls.metrics.evaluation import evaluate
from llm_cls.runs.directory import RunDirectory
from llm_cls.training.checkpoints import AtomicCheckpointIO, find_checkpoint
from llm_cls.training.devices import Hardware
from llm_cls.training.module import ClassifierModule
from llm_cls.training.optimizer import build_optimizer, build_schedule
from llm_cls.training.prepare import prepare
from llm_cls.training.recorder import RunRecorder
from llm_cls.training.run import _compilation_pays
from llm_cls.training.shared import Shared
from llm_cls.training.speed import _train
from tests.jsonl import read_jsonl
from tests.small_model import SMALL_MODEL


def test_weight_decay_spares_vectors() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 6))
    network[0].weight.requires_grad_(False)
    decayed, spared = build_optimizer(network, OptimizerConfig()).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert [p.shape for p in decayed["params"]] == [(5, 6)], "frozen ones are not there"
    assert all(p.ndim == 1 for p in spared["params"]) and len(spared["params"]) == 3


def test_clipping_sees_the_gradients_without_the_loss_scale_of_float16() -> None:
    layer = nn.Linear(4, 4)
    optimizer = build_optimizer(layer, OptimizerConfig(max_grad_norm=1.0))
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    precision.scaler.scale(layer(torch.ones(4)).sum()).backward()  # type: ignore[union-attr]
    data: Any = Mock(steps_per_epoch=1)
    config: Any = Mock(optimizer=OptimizerConfig(max_grad_norm=1.0))
    module = ClassifierModule(layer, config, data)  # type: ignore[arg-type]
    seen: list[float] = []
    precision._after_closure = lambda *_: (  # type: ignore[assignment]
        seen.append(float(layer.weight.grad.norm())), module.on_before_optimizer_step(optimizer)
    )  # fmt: skip
    precision.optimizer_step(optimizer, Mock(automatic_optimization=False), lambda: None)  # type: ignore[arg-type]
    assert seen == [pytest.approx(4.0)], "16 ones"
    total = sum(float(p.grad.norm()) ** 2 for p in layer.parameters() if p.grad is not None) ** 0.5
    assert total == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("tokens", "epochs", "expected"), [(2_600_000, 10, True), (2_600_000, 1, False), (64, 10, False)]
)
def test_only_long_runs_compile(tokens: int, epochs: int, expected: bool) -> None:
    """1.4 B weights outside the embeddings, as those of Qwen3 1.7 B: compilation pays after an epoch and a half."""
    with torch.device("meta"):
        embeddings = nn.Embedding(151_936, 2048)
        decoder: Any = nn.Sequential(embeddings, nn.Linear(2048, 683_594, bias=False))
    decoder.get_input_embeddings = lambda: embeddings
    data: Any = Mock(tokens={"train": Mock(lengths=np.array([tokens // 2, tokens // 2]))})
    assert _compilation_pays(decoder, data, epochs) is expected


def test_schedule_rises_for_an_epoch_and_falls_to_zero() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), OptimizerConfig(lr=1.0))
    schedule = build_schedule(optimizer, OptimizerConfig(lr=1.0, warmup_epochs=1), steps_per_epoch=4, max_epochs=3)
    rates = []
    for _ in range(12):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert schedule.get_last_lr()[0] == 0


def tokens(n: int) -> Tokens:
    lengths = np.random.default_rng(0).integers(1, 20, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Tokens(np.arange(offsets[-1], dtype=np.int32), offsets)


@pytest.mark.parametrize(("world_size", "micro"), [(1, 32), (1, 5), (2, 16), (3, 4), (8, 1), (32, 1)])
def test_a_step_is_the_same_set_of_texts_on_any_number_of_devices(world_size: int, micro: int) -> None:
    some, labels = tokens(100), np.arange(100, dtype=np.int64) % 7
    steps = step_indices(100, 32, seed=1, epoch=3)
    assert sorted(i for step in steps for i in step) == list(range(100))
    assert [len(step) for step in steps] == [32, 32, 32, 4]
    shares = [TrainSteps(some, labels, steps, micro, rank, world_size) for rank in range(world_size)]
    for s, step in enumerate(steps):
        found, sizes = [], []
        for share in shares:
            assert share[s].n_texts == len(step)
            sizes.append(sum(sum(batch.lengths) for batch in share[s].micro_batches))
            for batch in share[s].micro_batches:
                assert 0 < len(batch.lengths) <= micro
                found += batch.indices
                rows = batch.input_ids.split(batch.lengths)
                for i, row, label in zip(batch.indices, rows, batch.labels, strict=True):
                    assert row.tolist() == some[i].tolist() and label == labels[i]
        assert found == step.tolist() if world_size == 1 else sorted(found) == sorted(step.tolist())
        assert max(sizes) - min(sizes) <= max(some.lengths[step]), "no device waits for another one's second text"
        counts = [sum(len(batch.lengths) for batch in share[s].micro_batches) for share in shares]
        assert max(counts) <= -(-len(step) // world_size), "no device needs another micro batch"


def test_order_depends_only_on_seed_and_epoch() -> None:
    orders = {(s, e): np.concatenate(step_indices(50, 8, s, e)).tolist() for s in (1, 2) for e in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    assert np.concatenate(step_indices(50, 8, 1, 0)).tolist() == orders[1, 0]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_text_is_scored_on_one_device_once(world_size: int) -> None:
    some, labels = tokens(23), np.zeros(23, np.int64)
    seen = []
    for rank in range(world_size):
        batches = EvalBatches(some, labels, 4, rank, world_size)
        seen += [i for b in range(len(batches)) for i in batches[b].indices]
    assert sorted(seen) == list(range(23))


def test_evaluation_against_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 5, generator=generator), torch.randint(0, 5, (40,), generator=generator)
    found = evaluate(logits.numpy(), labels.numpy())
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits.double(), labels).item(), rel=1e-12)
    np.testing.assert_allclose(found.probabilities, logits.double().softmax(1).numpy(), rtol=1e-12)
    assert found.finite and found.figures()["accuracy"] == pytest.approx(
        (logits.argmax(1) == labels).double().mean().item()
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_is_never_scored(bad: float) -> None:
    logits = np.zeros((4, 3), np.float32)
    logits[2, 1] = bad
    found = evaluate(logits, np.array([0, 1, 2, 0]))
    assert not found.finite and found.collapsed and found.confusion is None
    assert found.figures()["f1"] is None and np.isnan(found.f1) and np.isnan(found.loss)


@pytest.mark.parametrize(
    ("predictions", "collapsed"),
    [([0, 1, 2, 3], False), ([0, 1, 2, 2], False), ([0, 0, 1, 1], True), ([0, 0, 0, 0], True)],
)
def test_collapsed_means_half_of_the_labels_never_predicted(predictions: list[int], collapsed: bool) -> None:
    found = evaluate(np.eye(4, dtype=np.float32)[predictions], np.arange(4))
    assert found.collapsed is collapsed


@pytest.mark.parametrize(
    ("environment", "index"), [({}, 0), ({"SLURM_LOCALID": "1"}, 1), ({"SLURM_LOCALID": "0", "LOCAL_RANK": "3"}, 3)]
)
def test_each_process_of_a_machine_has_its_own_device(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], index: int
) -> None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Hardware("gpu", 4, 1, "32-true", torch.float32).device == torch.device("cuda", index)


def test_history_is_rewritten_where_a_kill_came_before_it(tmp_path: Path) -> None:
    recorder = RunRecorder(RunDirectory(tmp_path), 100, "id", None)
    recorder.on_fit_start(Mock(), Mock())
    assert not list(tmp_path.iterdir()), "a run that begins has none"
    state = {"best_epoch": 1, "best_f1": 0.5, "diverged": False, "pruned": False, "done": True}
    scores = dict.fromkeys(("accuracy", "precision", "recall", "f1"), 0.5)
    recorder.load_state_dict({"history": [{"epoch": 1, "val": scores, "seconds": 2.0}], **state})
    recorder.on_fit_start(Mock(), Mock())
    assert read_jsonl(tmp_path / "history.jsonl") == [{"epoch": 1, "val": scores, "seconds": 2.0}]
    again = RunRecorder(RunDirectory(tmp_path), 100, "id", None)
    again.load_state_dict(recorder.state_dict())
    assert again.history == recorder.history and again.state_dict()["best_score"] == 0.5


@pytest.mark.parametrize("content", [b"", b"x", None])
def test_what_is_no_checkpoint_is_called_damaged(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content or b"")
    if content is None:
        torch.save({"weights": 1}, path)
    with pytest.raises(ArtifactError, match=r"last.ckpt is damaged: .*[^.]$"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_a_rank_whose_parent_is_gone_ends_at_once(tmp_path: Path) -> None:
    environment = os.environ | {"LLM_CLS_PARENT": "1000000000", "RANK": "0"}  # nobody's number
    command = [sys.executable, "-m", "llm_cls.training.rank"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (75, "", "")


def save(directory: RunDirectory, epoch: int, before: Path | None, run_id: str) -> Path:
    directory.new_checkpoint(epoch).parent.mkdir(exist_ok=True)
    recorder = RunRecorder(directory, epoch, run_id, None)
    AtomicCheckpointIO().save_checkpoint(
        {"callbacks": {recorder.state_key: recorder.state_dict()}, "epoch": epoch}, directory.new_checkpoint(epoch)
    )
    sealed = directory.keep_checkpoint(epoch, before)
    assert sealed is not None
    return sealed


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert find_checkpoint(directory, "own") == (None, [])
    first = save(directory, 1, None, "own")
    second = save(directory, 2, first, "own")
    assert find_checkpoint(directory, "own") == (second, [])
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    found, faults = find_checkpoint(directory, "own")
    assert found == first and len(faults) == 1 and f"{second} is damaged: its sha256 must be" in faults[0]
    first.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"No other checkpoint is left: remove .* and start again"):
        find_checkpoint(directory, "own")


def test_a_checkpoint_of_another_run_is_never_used(tmp_path: Path) -> None:
    """``run.json`` may have been removed; no other run may resume with these weights."""
    directory = RunDirectory(tmp_path)
    first = save(directory, 1, None, "own")
    second = save(directory, 2, first, "other")
    found, faults = find_checkpoint(directory, "own")
    assert found == first and faults == [f"{second} belongs to a run of another configuration"]
    with pytest.raises(OtherRunError, match="belongs to a run of another configuration"):
        find_checkpoint(directory, "third")


class ReadNumbers(TorchDispatchMode):
    """The dtypes of the tensors of which the host reads the number; on a GPU it waits for the device then."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_number_from_the_device() -> None:
    overrides = ["data=sample", "data.limit=24", "data.max_length=8", "data.batch_size=2", "logger=none", "trainer=cpu"]
    model = [*SMALL_MODEL, "lora.target_modules=all-linear"]
    inputs = prepare(parse_config(compose_tree([*overrides, *model])), Shared())

    def reads(steps: int) -> list[torch.dtype]:
        with ReadNumbers() as read:
            _train(inputs, Shared(), steps=steps, warmup=0)
        assert torch.int64 in read.dtypes, "lengths and seeds, which are on the host"
        return [dtype for dtype in read.dtypes if dtype != torch.int64]

    assert reads(3) == reads(12), "those at the start alone"
