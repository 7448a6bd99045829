"""Training on several processes: gradients are summed and scores gathered, without padding.

Only adapter and head are trained, so one all-reduce of a few megabytes per step replaces
``DistributedDataParallel``. That keeps the mean over the step's texts exact when the devices' shares
differ in size, which averaging per device does not.
"""

from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from llm_cls.errors import ConfigError
from llm_cls.training.watch import RankWatch

_BUCKET_BYTES = 64 * 2**20


class ReplicatedStrategy(DDPStrategy):
    """Lightning's DDP without the wrapper: the module itself calls ``sum_gradients``."""

    def __init__(self, watch: RankWatch) -> None:
        """Takes the watch, which starts with the process group and has the timeout of the collectives."""
        super().__init__(timeout=timedelta(seconds=watch.timeout_seconds))
        self._watch = watch

    def setup_distributed(self) -> None:
        """Connects the processes."""
        super().setup_distributed()
        self._watch.start()

    def setup(self, trainer: Trainer) -> None:
        """Sets up the model on this device; to score it, DDP would first send all weights, which are equal already."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().setup(trainer)
        else:
            Strategy.setup(self, trainer)

    def configure_ddp(self) -> None:
        """Makes what is trained equal in all processes, which the seed does already; there is no wrapper."""
        assert self.model is not None
        for tensor in self.model.parameters():
            if tensor.requires_grad:
                dist.broadcast(tensor.data, src=0)

    def _setup_model(self, model: nn.Module) -> Any:
        return model


def leave_signals_to_command(trainer: Trainer) -> None:
    """Lets a signal end each process by itself, as ``llm_cls.signals`` does.

    Lightning asks in each step whether rank 0 has received SIGTERM: a collective whose answer the processor waits for,
    so that it could not prepare the next step while the device computes.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing  # type: ignore[method-assign]
    trainer._signal_connector._sigterm_notifier_fn = _do_nothing  # type: ignore[method-assign]  # its other half


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_gradients(module: LightningModule) -> None:
    """Replaces every gradient with its sum over all processes; a missing one counts as zero."""
    if not is_distributed():
        return
    gradients: list[Tensor] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    bucket: list[Tensor] = []
    size = 0
    for i, gradient in enumerate(gradients):
        bucket.append(gradient)
        size += gradient.nbytes
        if size >= _BUCKET_BYTES or i == len(gradients) - 1:
            flat = _flatten_dense_tensors(bucket)
            dist.all_reduce(flat)
            for target, summed in zip(bucket, _unflatten_dense_tensors(flat, bucket), strict=True):
                target.copy_(summed)
            bucket, size = [], 0


def gather_logits(logits: list[Tensor], indices: list[int], n_texts: int, n_labels: int) -> npt.NDArray[np.float32]:
    """The logits of a whole split, in its own order, on every process.

    Args:
        logits: This process's batches, each of shape ``(n, n_labels)``.
        indices: The texts that they belong to.
        n_texts: Texts of the split.
        n_labels: Labels.

    Returns:
        Shape ``(n_texts, n_labels)``.

    Raises:
        RuntimeError: Some text was scored twice or not at all.
    """
    own = torch.cat(logits).float().cpu().numpy() if logits else np.zeros((0, n_labels), np.float32)
    parts: list[Any] = [(indices, own)]
    if is_distributed():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (indices, own))
    order = np.concatenate([np.asarray(part[0], np.int64) for part in parts])
    if not np.array_equal(np.sort(order), np.arange(n_texts)):
        raise RuntimeError(f"{len(order)} scores for {n_texts} texts: some text was not scored exactly once")
    result = np.empty((n_texts, n_labels), np.float32)
    result[order] = np.concatenate([part[1] for part in parts])
    return result


def check_same_on_all(value: str, what: str, fix: str) -> None:
    """Compares ``value`` with that of all other processes.

    Raises:
        ConfigError: They differ.
    """
    if is_distributed():
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise ConfigError(f"The processes of this run differ in their {what}: {', '.join(values)}. {fix}")
