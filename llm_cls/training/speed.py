"""Measures how fast a configuration trains and evaluates on this machine, in the ordinary training path."""

import gc
import statistics
import time
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from transformers.pytorch_utils import Conv1D

from llm_cls.data.batches import Batch, Step, collate
from llm_cls.data.datamodule import TextDataModule
from llm_cls.errors import ConfigError
from llm_cls.training.devices import peak_memory_gib, reset_peak_memory
from llm_cls.training.joint import JointTraining
from llm_cls.training.joint_shared import JointRun, JointShared
from llm_cls.training.module import ClassifierModule
from llm_cls.training.prepare import Inputs
from llm_cls.training.run import build_module, data_module
from llm_cls.training.shared import Shared


@dataclass
class StepClock(Callback):
    """Times training steps and evaluations.

    A step lasts from the end of the one before it to its own end, on the device's clock: nothing waits in between, so
    what the processor prepares while the device computes is hidden, as in training.
    """

    tokens: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)
    evaluation_seconds: float = 0.0
    first_step_ended: float = 0.0
    _marks: list[Any] = field(default_factory=list)
    _started: float = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Step, batch_idx: int) -> None:
        """Starts the clock once."""
        if not self._marks:
            _now(pl_module.device)
            self._mark(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Marks the end of a step."""
        self._mark(pl_module.device)
        if not self.first_step_ended:
            self.first_step_ended = _now(pl_module.device)
        self.tokens.append(sum(sum(micro.lengths) for micro in batch.micro_batches))
        self.texts.append(batch.n_texts)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = _now(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops it."""
        self.evaluation_seconds = _now(pl_module.device) - self._started

    def _mark(self, device: torch.device) -> None:
        if device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    @property
    def seconds(self) -> list[float]:
        """Duration of every step so far."""
        if not isinstance(self._marks[0], torch.cuda.Event):
            return [end - start for start, end in pairwise(self._marks)]
        self._marks[-1].synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairwise(self._marks)]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(inputs: Inputs, steps: int, warmup: int, runs: int = 1) -> dict[str, Any]:
    """Speed and memory of one engine.

    Args:
        inputs: The run; its first steps are trained, nothing is written.
        steps: Steps that are measured.
        warmup: Steps before them: compilation, the allocator, the clocks of the device.
        runs: How many such runs train at the same time; see ``joint.py``.

    Returns:
        A row of the benchmark's results. A step is one of each run.
    """
    config, hardware = inputs.config, inputs.hardware
    device = hardware.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        reset_peak_memory(device)
    began = time.perf_counter()
    if runs == 1:
        trained = _train(inputs, Shared(), steps, warmup)
    else:
        shared = JointShared()
        given = [replace(inputs, config=config.model_copy(update={"seed": config.seed + i})) for i in range(runs)]
        threads = [
            JointRun(f"run {i}", partial(_train, one, shared, steps, warmup), shared) for i, one in enumerate(given)
        ]
        JointTraining(runs).run(threads)
        for thread in threads:
            if thread.error is not None:
                raise thread.error
        trained = threads[0].result
        del threads, shared
    module, clock = trained.module, trained.clock
    if runs > 1 and module.classifier.encoder.layers != "fused":
        raise ConfigError(
            f"concurrent={runs} needs the fused layers, and {config.model.name} has {module.classifier.encoder.layers} "
            "ones here. Try concurrent=1"
        )
    seconds, tokens = clock.seconds[warmup:], clock.tokens[warmup:]
    rate = runs * sum(tokens) / sum(seconds)
    row = {
        "engine": config.engine.name,
        "runs": runs,
        "layers": module.classifier.encoder.layers,
        "step_seconds": statistics.median(seconds),
        "step_seconds_spread": [min(seconds), max(seconds)],
        "steps": len(seconds),
        "texts_per_second": runs * sum(clock.texts[warmup:]) / sum(seconds),
        "tokens_per_second": rate,
        "epoch_seconds": statistics.median(seconds) * trained.steps_per_epoch,
        "evaluation_tokens_per_second": runs * trained.evaluation_rate,
        "peak_memory_gib": trained.memory,
        "first_step_seconds": clock.first_step_ended - began,
        "tflops": _flops_per_token(module) * rate / 1e12,
    }
    del module, trained
    gc.collect()
    torch.compiler.reset()
    return row


@dataclass(frozen=True)
class _Trained:
    """A network after its first steps, and what was measured."""

    module: ClassifierModule
    clock: StepClock
    steps_per_epoch: int
    memory: float
    evaluation_rate: float


def _train(inputs: Inputs, shared: Shared, steps: int, warmup: int) -> _Trained:
    hardware = inputs.hardware
    data = data_module(inputs, shared)
    module = build_module(inputs, data, shared)
    clock = StepClock()
    trainer = Trainer(
        accelerator=hardware.accelerator, devices=1, precision=hardware.precision,  # type: ignore[arg-type]
        max_steps=warmup + steps, max_epochs=-1, callbacks=[clock], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    memory = peak_memory_gib(hardware.device)
    return _Trained(module, clock, data.steps_per_epoch, memory, _evaluate(module, data, trainer, clock))


def _evaluate(module: ClassifierModule, data: TextDataModule, trainer: Trainer, clock: StepClock) -> float:
    """Tokens per second of scoring val, the second time."""
    evaluator = Trainer(
        accelerator=trainer.accelerator, devices=1, precision=trainer.precision, callbacks=[clock], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    for _ in range(2):
        evaluator.validate(module, datamodule=data, verbose=False)
    return int(data.tokens["val"].lengths.sum()) / clock.evaluation_seconds


def _flops_per_token(module: ClassifierModule) -> float:
    """Operations of a training step's matrix products: forward, input gradients, gradients of trained weights."""
    decoder = module.classifier.decoder
    frozen = (
        4 if any(p.requires_grad for p in decoder.parameters()) else 2
    )  # a head alone needs no backward pass through the decoder
    total = 0.0
    for layer in decoder.modules():
        if isinstance(layer, nn.Linear | Conv1D):  # GPT-2's linear layers are of the latter type
            total += layer.weight.numel() * (6 if layer.weight.requires_grad else frozen)
    return total


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of large random matrix products on this device, measured after it has warmed up."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times: list[float] = []
    while sum(times) < 1:
        began = _now(device)
        a @ b
        times.append(_now(device) - began)
    return 2 * size**3 / statistics.median(times[len(times) // 2 :]) / 1e12


def largest_micro_batch(inputs: Inputs) -> int:
    """The largest number of full-length texts in one forward and backward pass, at most a batch; 0 if none fits."""
    config = inputs.config
    shared = Shared()
    data = data_module(inputs, shared)
    module = build_module(inputs, data, shared)
    tokens = data.tokens["train"]
    longest = np.argsort(-tokens.lengths)[: config.data.batch_size]
    module.classifier.train()
    fits, fails = 0, config.data.batch_size + 1
    while fits + 1 < fails:
        size = min(2 * fits or 1, (fits + fails) // 2)
        if _fits(module, collate(tokens, data.labels("train"), longest[:size]), inputs):
            fits = size
        else:
            fails = size
        module.zero_grad()
    return fits


def _fits(module: ClassifierModule, batch: Batch, inputs: Inputs) -> bool:
    """Whether the forward and backward pass of a batch fit in memory."""
    device, precision = inputs.hardware.device, inputs.hardware.precision
    try:
        with torch.autocast(device.type, inputs.hardware.frozen_dtype, enabled=precision != "32-true"):
            loss = module.classifier(replace(batch, input_ids=batch.input_ids.to(device))).sum()
        loss.backward()
    except torch.OutOfMemoryError:
        return False
    return True
