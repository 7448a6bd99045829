"""Runs that take turns: each computes what it computes alone, whatever the others do."""

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_cls.config.schema import ModelConfig
from llm_cls.engine.joint import JointPass
from llm_cls.engine.layers import build_layers
from llm_cls.engine.runner import FusedDecoder
from llm_cls.errors import RunInterrupted
from llm_cls.model.classifier import build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder, shared_copy
from llm_cls.training import joint as joint_module
from llm_cls.training.joint import JointTraining
from llm_cls.training.joint_shared import JointShared
from llm_cls.training.run_thread import JointEncoder, RunThread
from llm_cls.training.shared import Shared
from tests.unit.engine.networks import ARCHITECTURES
from tests.unit.model.test_model import config

STEPS = 4


def decoders(n: int) -> list[FusedDecoder]:
    """Those of ``n`` runs over one network, with dropout."""
    model = ModelConfig(name="tiny", weights="random", architecture=ARCHITECTURES["neox"])
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 0)
    frozen = build_layers(decoder, 64)
    made = config("data.max_length=64", "lora.r=4", "lora.lora_dropout=0.2").model_copy(update={"model": model})
    found = []
    for seed in range(n):
        one = made.model_copy(update={"seed": seed})
        encoder = build_classifier(shared_copy(decoder), one, 3, gradient_checkpointing=False, frozen=frozen).encoder
        assert isinstance(encoder, FusedDecoder)
        found.append(encoder)
    return found


def texts(run: int, step: int) -> tuple[Tensor, list[int]]:
    lengths = [20 + run, 30, 10 + step % 2]
    return torch.arange(sum(lengths)) * (run + 7) % 99, lengths


def train(run: int, own: FusedDecoder, encoder: Any, fails_at: int | None = None) -> list[Tensor]:
    """Some steps of a run with its own random numbers: the gradients of each, from two micro batches."""
    torch.manual_seed(run)
    found = []
    for step in range(STEPS):
        for first_token in (0, 100):
            pooled = encoder(*texts(run, step), first_token, True)
            if step == fails_at:
                raise ValueError("it fails")
            (pooled * torch.randn(pooled.shape)).sum().backward()
            if isinstance(encoder, JointEncoder):
                encoder.backward()
        if step == 1:
            with torch.no_grad():
                encoder(*texts(run, step), 0, False)
        parameters = own.network.parameters
        found.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        for parameter in parameters:
            parameter.grad = None
    return found


def alone(n: int) -> list[list[Tensor]]:
    return [train(run, own, own) for run, own in enumerate(decoders(n))]


def threads(n: int, fails: int | None = None) -> list[RunThread]:
    def action(run: int, own: FusedDecoder) -> Callable[[], Any]:
        return lambda: train(run, own, JointEncoder(own), fails_at=2 if run == fails else None)

    return [RunThread(f"run {run}", action(run, own)) for run, own in enumerate(decoders(n))]


def assert_as_alone(found: Sequence[RunThread], expected: Sequence[list[Tensor]]) -> None:
    for thread, gradients in zip(found, expected, strict=True):
        if thread.error is None:
            for one, two in zip(thread.result, gradients, strict=True):
                assert float((one - two).norm()) <= 1e-5 * float(two.norm())


@pytest.mark.parametrize("concurrent", [2, 3])
def test_runs_in_turns_compute_what_they_compute_alone(concurrent: int) -> None:
    """Three runs, also where two at a time train and the third takes the place of the first that ends."""
    runs = threads(3)
    assert not JointTraining(concurrent).run(runs)
    assert [run.error for run in runs] == [None] * 3
    assert_as_alone(runs, alone(3))


def test_a_failure_is_that_of_one_run() -> None:
    runs = threads(3, fails=1)
    JointTraining(3).run(runs)
    assert [str(run.error) for run in runs] == ["None", "it fails", "None"]
    assert_as_alone(runs, alone(3))


@pytest.mark.parametrize("where", ["__init__", "backward"])
def test_what_does_not_fit_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    original: Any = getattr(JointPass, where)
    sizes = []

    freed = []

    def limited(self: Any, *arguments: Any, **more: Any) -> Any:
        assert all(tensor() is None for tensor in freed), "what an earlier pass has allocated"
        n = len(arguments[1]) if where == "__init__" else len(arguments[0])
        sizes.append(n)
        if n > 2:
            saved = torch.zeros(1)
            freed.append(weakref.ref(saved))
            raise RuntimeError("CUDA out of memory")
        return original(self, *arguments, **more)

    monkeypatch.setattr(JointPass, where, limited)
    runs = threads(4)
    JointTraining(4).run(runs)
    assert {4, 2} <= set(sizes) and [run.error for run in runs] == [None] * 4
    assert_as_alone(runs, alone(4))


def test_an_error_of_the_pass_is_that_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the device has failed")

    monkeypatch.setattr(joint_module, "JointPass", broken)
    runs = threads(2)
    JointTraining(2).run(runs)
    assert [str(run.error) for run in runs] == ["the device has failed"] * 2


def test_an_interruption_ends_all_runs() -> None:
    ended = []

    def interrupted(own: FusedDecoder) -> None:
        JointEncoder(own)(*texts(0, 0), 0, True)
        raise RunInterrupted("Interrupted by SIGTERM")

    def waits(own: FusedDecoder) -> None:
        try:
            for _ in range(100):
                JointEncoder(own)(*texts(0, 0), 0, True)
        finally:
            ended.append(True)

    one, two, three = decoders(3)
    runs = [
        RunThread("one", lambda: waits(one)), RunThread("two", lambda: interrupted(two)),
        RunThread("three", lambda: waits(three)),
    ]  # fmt: skip
    with pytest.raises(RunInterrupted, match="SIGTERM"):
        JointTraining(3).run(runs)
    assert len(ended) == 2 and not any(run.is_alive() for run in runs)


def test_a_run_begins_without_the_memory_of_those_that_have_ended() -> None:
    class Trainer:
        own: "Trainer"

    one, shared = config("data.max_length=32"), JointShared()
    architecture = load_architecture(one.model)
    shared.take_decoder(one, architecture, torch.float32, torch.device("cpu"))
    gc.disable()  # Python may do it by itself
    try:
        ended = Trainer()
        ended.own = ended
        left = weakref.ref(ended)
        del ended
        shared.take_decoder(one, architecture, torch.float32, torch.device("cpu"))
        assert left() is None
    finally:
        gc.enable()


def test_a_pass_ends_the_ranks_of_earlier_runs() -> None:
    earlier = Shared()
    assert JointShared().over(earlier).ranks is earlier.ranks


@pytest.mark.parametrize("fastest", [1, 2])
def test_auto_leaves_the_others_where_one_run_is_as_fast(monkeypatch: pytest.MonkeyPatch, fastest: int) -> None:
    """The clock says that a round of any number of runs takes as long as one, or as long as each of them alone."""
    monkeypatch.setitem(globals(), "STEPS", 12)
    clock = [0.0]

    def now() -> float:
        clock[0] += 1.0
        return clock[0]

    original = joint_module.JointTraining._train

    def slow(self: JointTraining, group: Sequence[RunThread]) -> None:
        clock[0] += 100.0 * (len(group) if fastest == 1 else max(1, len(group) - 1))
        original(self, group)

    monkeypatch.setattr(joint_module.time, "perf_counter", now)
    monkeypatch.setattr(joint_module.JointTraining, "_train", slow)
    runs = threads(5)
    left = JointTraining("auto").run(runs)
    begun = [run for run in runs if run not in left]
    assert len(begun) == (2 if fastest == 1 else 5)
    assert all(run.error is None for run in begun) and all(run.ident is None for run in left)
    assert_as_alone(begun, alone(len(begun)))
