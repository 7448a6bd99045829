"""What happens at the end of each epoch: best weights, checkpoint, history."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from safetensors.torch import load_file
from torch import Tensor

from llm_cls.errors import ArtifactError
from llm_cls.files import finite
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.metrics.percent import percent
from llm_cls.metrics.selection import MONITORS, Monitor
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.layout import SCHEMA_2_BEST
from llm_cls.runs.pruning import Pruner
from llm_cls.runs.schema import Epoch, Scores, Status
from llm_cls.training.checkpoints import RECORDER_KEY
from llm_cls.training.devices import peak_memory_gib, reset_peak_memory
from llm_cls.training.distributed import check_same_on_all
from llm_cls.training.module import ClassifierModule

log = logging.getLogger(__name__)


class RunRecorder(Checkpoint):
    """Keeps the run directory in step with the training.

    After each epoch it writes the checkpoint, which holds the best weights so far as well, then the history. A kill at
    any moment loses at most this epoch, which is retrained with the same numbers.

    Attributes:
        history: The epochs so far.
        monitor: What selects the best epoch.
        best_epoch: Counted from 1; None while no epoch gave finite scores.
        diverged: Whether the loss or a score stopped being a number.
        pruned: Whether the run was ended early.
        done: Whether training has ended.
        earlier_seconds: Duration of the epochs that earlier processes have trained.
    """

    def __init__(
        self,
        directory: RunDirectory,
        tokens_per_epoch: int,
        run_id: str,
        pruner: Pruner | None,
        checkpoint: Path | None = None,
        monitor: Monitor = MONITORS["f1"],
    ) -> None:
        """Starts with an empty history.

        Args:
            directory: Where to write.
            tokens_per_epoch: Number of tokens of the training texts.
            run_id: The id of the run as this process computed it.
            pruner: Decides when to end the run early; None in all processes of a run but the first.
            checkpoint: From which the run resumes.
            monitor: What selects the best epoch.
        """
        self._directory, self._tokens_per_epoch, self._run_id = directory, tokens_per_epoch, run_id
        self._pruner, self._checkpoint, self.monitor = pruner, checkpoint, monitor
        self._best_weights: dict[str, Tensor] = {}
        self.history: list[Epoch] = []
        self.best_epoch: int | None = None
        self.diverged = self.pruned = self.done = False
        self.earlier_seconds = 0.0
        self._best_score = monitor.worst
        self._started = 0.0
        self._train_seconds = 0.0

    @property
    def state_key(self) -> str:
        """Name in the checkpoint."""
        return RECORDER_KEY

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs."""
        return {
            "run_id": self._run_id,
            "history": [epoch.model_dump(exclude_unset=True) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "best_score": self._best_score,
            "best_weights": self._best_weights,
            "diverged": self.diverged,
            "pruned": self.pruned,
            "done": self.done,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from ``state_dict``."""
        self.history = [Epoch(**epoch) for epoch in state_dict["history"]]
        self.earlier_seconds = float(sum(epoch.seconds for epoch in self.history))
        self.best_epoch = state_dict["best_epoch"]
        self._best_score = state_dict["best_score" if "best_score" in state_dict else "best_f1"]  # up to version 0.2
        self.diverged, self.pruned, self.done = (state_dict[key] for key in ("diverged", "pruned", "done"))
        if "best_weights" in state_dict:
            self._best_weights = state_dict["best_weights"]
        elif self.best_epoch is not None and self._checkpoint is not None:  # a checkpoint of schema 2
            self._best_weights = _read_best(self._checkpoint.parent / SCHEMA_2_BEST.format(epoch=self.best_epoch))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stops at once where the last epoch was the last one of the run."""
        trainer.should_stop = bool(checkpoint["callbacks"][self.state_key]["done"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to train with processes that have another configuration, other data or another directory."""
        reset_peak_memory(trainer.strategy.root_device)  # a sweep trains many runs in one process
        check_same_on_all(self._run_id, "configuration or data", "Start all of them with the same command")
        check_same_on_all(
            str(self._directory.path.resolve()), "run directory", "Give all of them the same hydra.run.dir"
        )
        if self.history:  # a process that was killed after its last checkpoint may not have written it
            self._directory.write_history(self.history)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of the training part."""
        if trainer.state.fn == "fit":
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            self._train_seconds = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the epoch, and decides whether the run continues."""
        assert isinstance(pl_module, ClassifierModule)
        self._directory.check_exists()
        number, val = trainer.current_epoch + 1, pl_module.evaluations["val"]
        epoch = self._measured(number, val, pl_module)
        self.history.append(epoch)
        self.diverged = not val.finite or epoch.train_loss is None
        score = val.value(self.monitor.name)
        better = self.monitor.improves(score, self._best_score)
        if better:
            self.best_epoch, self._best_score = number, score
            self._best_weights = {name: tensor.clone() for name, tensor in pl_module.trainable_state().items()}
        if self.diverged:  # a weight that is not a number stays so
            trainer.should_stop = True
        else:
            prune = self._pruner is not None and self._pruner.should_stop(number, val)
            self.pruned = bool(trainer.strategy.broadcast(prune))
            trainer.should_stop = trainer.should_stop or self.pruned
        self.done = trainer.should_stop or number == trainer.max_epochs
        trainer.save_checkpoint(self._directory.new_checkpoint(number))
        self._checkpoint = self._directory.keep_checkpoint(number, self._checkpoint)
        self._directory.write_history(self.history)
        self._log(trainer, epoch, val, better)

    def _measured(self, number: int, val: Evaluation, module: ClassifierModule) -> Epoch:
        optimizer: Any = module.optimizers()
        return Epoch(
            epoch=number,
            train_loss=finite(module.take_train_loss()),
            val=Scores(**finite(val.figures(self.monitor.name))),
            lr=optimizer.param_groups[0]["lr"],
            seconds=time.perf_counter() - self._started,
            tokens_per_second=self._tokens_per_epoch / self._train_seconds,
            peak_memory_gib=peak_memory_gib(module.device),
        )

    def _log(self, trainer: Trainer, epoch: Epoch, val: Evaluation, better: bool) -> None:
        """One line for people, and the figures for W&B."""
        if self._directory.writes:
            log.info(
                "Epoch %d/%d: train loss %.4f, val loss %.4f, val F1 %s %%%s%s, %.0f s%s",
                epoch.epoch, trainer.max_epochs, _or_nan(epoch.train_loss), val.loss, percent(val.f1), self._also(val),
                " (best)" if better else "", epoch.seconds, "; ended early by the pruner" if self.pruned else "",
            )  # fmt: skip
        figures = {f"val/{name}": value for name, value in val.figures(self.monitor.name).items() if value is not None}
        figures |= epoch.model_dump(include={"lr", "seconds", "tokens_per_second", "peak_memory_gib"})
        for logger in trainer.loggers:
            loss = _or_nan(epoch.train_loss)
            logger.log_metrics({"epoch": epoch.epoch, "train/loss": loss, **figures}, step=epoch.epoch)

    def _also(self, val: Evaluation) -> str:
        """The monitored score, where the line would not have it."""
        name = self.monitor.name
        return "" if name in ("f1", "loss") else f", val {self.monitor.title} {self.monitor.show(val.value(name))}"

    @property
    def status(self) -> Status:
        """How the run ended, for its result."""
        return "diverged" if self.diverged else "pruned" if self.pruned else "finished"

    def load_best(self, module: ClassifierModule) -> bool:
        """Puts the weights of the best epoch into ``module``; False where there is none."""
        if self.best_epoch is None:
            return False
        module.load_trainable_state(self._best_weights, "the best epoch")
        return True


def _read_best(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise ArtifactError(
            f"{path} is missing or damaged: {error}. Remove the run directory and start again"
        ) from None


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
