"""What happens at the end of each epoch: history, best epoch, checkpoint, progress."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import load_file, save_file

from llm_cls.errors import ArtifactError, ResourceError, first_line
from llm_cls.files import atomic_path, write_jsonl
from llm_cls.runs.pruning import Pruner
from llm_cls.training.devices import peak_memory_gib, reset_peak_memory
from llm_cls.training.distributed import check_same_on_all
from llm_cls.training.launch import is_first_process
from llm_cls.training.module import LOG_EVERY_STEPS, ClassifierModule

log = logging.getLogger(__name__)

LAST = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and that are read without running any code in them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes beside the target and renames."""
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:  # a full disk is an OSError here
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads tensors and plain values only.

        Raises:
            ArtifactError: The file is damaged.
        """
        fault = "it is no checkpoint of a run"
        try:
            checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            fault = first_line(error)
        else:
            if isinstance(checkpoint, dict) and RunRecorder.KEY in checkpoint.get("callbacks", {}):
                return checkpoint
        raise ArtifactError(f"{path} is damaged: {fault.rstrip('.')}. Remove the run directory and start again")


class RunRecorder(Checkpoint):
    """Keeps the run directory in step with the training.

    After each epoch: the best weights so far, then the checkpoint, then the history. A kill between any
    two of them loses at most the epoch, which is trained again with the same numbers.

    Attributes:
        history: The lines of ``history.jsonl``.
        best_epoch: Counted from 1; None while no epoch gave finite scores.
        diverged: Whether the loss or a score stopped being a number.
        pruned: Whether the run was ended early.
        done: Whether training has ended.
        earlier_seconds: Of the epochs that earlier processes have trained.
    """

    KEY = "run_recorder"  # in the checkpoint

    def __init__(self, directory: Path, tokens_per_epoch: int, run_id: str, pruner: Pruner | None) -> None:
        """Writes below ``directory``.

        Args:
            directory: The run directory.
            tokens_per_epoch: Of the training texts.
            run_id: This process's own idea of which run it is.
            pruner: Says when to end the run early; None in all processes of a run but the first.
        """
        self._directory, self._tokens_per_epoch, self._run_id = directory, tokens_per_epoch, run_id
        self._pruner = pruner
        self.history: list[dict[str, Any]] = []
        self.best_epoch: int | None = None
        self.diverged = False
        self.pruned = False
        self.done = False
        self.earlier_seconds = 0.0
        self._best_f1 = float("-inf")
        self._started = 0.0
        self._train_seconds = 0.0

    @property
    def state_key(self) -> str:
        """Name in the checkpoint."""
        return self.KEY

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs."""
        return {
            "run_id": self._run_id,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_f1": self._best_f1,
            "diverged": self.diverged,
            "pruned": self.pruned,
            "done": self.done,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self.history = state_dict["history"]
        self.earlier_seconds = float(sum(epoch["seconds"] for epoch in self.history))
        self.best_epoch, self._best_f1 = state_dict["best_epoch"], state_dict["best_f1"]
        self.diverged, self.pruned, self.done = (state_dict[key] for key in ("diverged", "pruned", "done"))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Trains no further where the last epoch was the run's last."""
        trainer.should_stop = bool(checkpoint["callbacks"][self.state_key]["done"])

    def _best_path(self, epoch: int) -> Path:
        return self._directory / "checkpoints" / f"best-{epoch:03d}.safetensors"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to train with processes that were given another configuration, other data or another directory."""
        reset_peak_memory(trainer.strategy.root_device)  # a sweep trains many runs in one process
        check_same_on_all(self._run_id, "configuration or data", "Give all the same command")
        check_same_on_all(str(self._directory.resolve()), "run directory", "Give all the same hydra.run.dir")
        if self.history and trainer.is_global_zero:  # a kill after the last checkpoint may have come before it
            write_jsonl(self._directory / "history.jsonl", self.history)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock for the training part."""
        if trainer.state.fn == "fit":
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            self._train_seconds = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the epoch."""
        assert isinstance(pl_module, ClassifierModule)
        self.check_directory()
        epoch = trainer.current_epoch + 1
        val = pl_module.evaluations["val"]
        train_loss = pl_module.take_train_loss()
        optimizer: Any = pl_module.optimizers()
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            "val": val.figures(),
            "lr": optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - self._started,
            "tokens_per_second": self._tokens_per_epoch / self._train_seconds,
            "peak_memory_gib": peak_memory_gib(pl_module.device),
        }
        self.history.append(row)
        self.diverged = not (val.finite and torch.isfinite(torch.tensor(train_loss)))
        better = val.finite and val.f1 > self._best_f1  # the first of equals stays
        if better:
            self.best_epoch, self._best_f1 = epoch, val.f1
            if trainer.is_global_zero:
                with atomic_path(self._best_path(epoch)) as temporary:
                    save_file(pl_module.trainable_state(), temporary)
        if self.diverged:  # what is not a number never becomes one again
            trainer.should_stop = True
        if not self.diverged:
            ends = self._pruner is not None and self._pruner.should_stop(epoch, val)
            self.pruned = bool(trainer.strategy.broadcast(ends))
            trainer.should_stop = trainer.should_stop or self.pruned
        self.done = trainer.should_stop or epoch == trainer.max_epochs
        trainer.save_checkpoint(self._directory / "checkpoints" / LAST)
        if trainer.is_global_zero:
            write_jsonl(self._directory / "history.jsonl", self.history)
            if better:
                self._remove_all_but_best()
            log.info(
                "Epoch %d/%d: train loss %.4f, val loss %.4f, val F1 %.4f%s, %.0f s%s",
                epoch, trainer.max_epochs, train_loss, val.loss, val.f1, " (best)" if better else "", row["seconds"],
                "; ended early: it can't win" if self.pruned else "",
            )  # fmt: skip
        flat = {f"val/{name}": value for name, value in val.figures().items() if value is not None}
        figures = {k: row[k] for k in ("lr", "seconds", "tokens_per_second", "peak_memory_gib")}
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": epoch, "train/loss": train_loss, **flat, **figures}, step=epoch)

    def check_directory(self) -> None:
        """Writes nothing where nobody would know whose it is.

        Raises:
            ResourceError: Somebody has removed the run directory.
        """
        if is_first_process() and not (self._directory / "run.json").is_file():
            raise ResourceError(f"{self._directory} was removed during the run. Start it again")

    @contextmanager
    def explain_removal(self) -> Iterator[None]:
        """Gives the removed run directory as the reason of whatever failed for it."""
        try:
            yield
        except Exception:
            self.check_directory()
            raise

    def _remove_all_but_best(self) -> None:
        for path in (self._directory / "checkpoints").glob("best-*.safetensors"):
            if self.best_epoch is None or path != self._best_path(self.best_epoch):
                path.unlink()

    @property
    def status(self) -> str:
        """How the run ended, for ``metrics.json``."""
        return "diverged" if self.diverged else "pruned" if self.pruned else "finished"

    def load_best(self, module: ClassifierModule) -> bool:
        """Puts the best epoch's weights into ``module``; False where there is none."""
        if self.best_epoch is None:
            return False
        path = self._best_path(self.best_epoch)
        try:
            state = load_file(path)
        except Exception as error:
            raise ArtifactError(
                f"{path} is missing or damaged: {error}. Remove the run directory and start again"
            ) from None
        module.load_trainable_state(state, str(path))
        return True


def checkpoint_run_id(path: Path) -> str | None:
    """Whose checkpoint it is; None where there is none, or where that is not known.

    Raises:
        ArtifactError: The file is damaged.
    """
    if not path.is_file():
        return None
    found: str | None = AtomicCheckpointIO().load_checkpoint(path)["callbacks"][RunRecorder.KEY].get("run_id")
    return found


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar, counting epochs from 1; where nobody watches, a few lines instead of hundreds."""

    def __init__(self, steps_per_epoch: int) -> None:
        """Sizes the refresh interval for a terminal or a log file."""
        self._watched = sys.stdout.isatty()
        self._shown: dict[str, Any] = {}
        super().__init__(refresh_rate=1 if self._watched else max(1, steps_per_epoch // 4), leave=False)

    def init_validation_tqdm(self) -> Tqdm:
        """The bar of an evaluation, which a log file can do without."""
        bar = super().init_validation_tqdm()
        bar.disable = bar.disable or not self._watched
        return bar

    def init_test_tqdm(self) -> Tqdm:
        """See ``init_validation_tqdm``."""
        bar = super().init_test_tqdm()
        bar.disable = bar.disable or not self._watched
        return bar

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Loss and val F1, without the version number of a logger.

        Between the steps that log a loss it repeats the latest: to read it the host waits for the device.
        """
        amid_steps = trainer.training and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if not amid_steps or trainer.fit_loop.batch_idx % LOG_EVERY_STEPS == 0:
            self._shown = super().get_metrics(trainer, pl_module)
            self._shown.pop("v_num", None)
        return self._shown

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the line, so that the message stands on its own."""
        for bar in (self._train_progress_bar, self._val_progress_bar, self._test_progress_bar):
            if bar is not None:
                bar.close()

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Shows which epoch of how many begins."""
        bar = self.train_progress_bar
        bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)
        bar.reset(self.total_train_batches)
