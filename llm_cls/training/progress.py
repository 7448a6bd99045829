"""The progress bar."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from llm_cls.training.module import LOG_EVERY_STEPS


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar, counting epochs from 1, for a terminal."""

    def __init__(self) -> None:
        """A bar that disappears when it is full."""
        self._shown: dict[str, Any] = {}
        super().__init__(leave=False)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Loss and val score, without the version number of a logger.

        Between the steps that log a loss it repeats the latest values, because reading a loss waits for the device.
        """
        amid_steps = trainer.training and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if not amid_steps or trainer.fit_loop.batch_idx % LOG_EVERY_STEPS == 0:
            self._shown = super().get_metrics(trainer, pl_module)
            self._shown.pop("v_num", None)
        return self._shown

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the bars, so that the error message starts on a new line."""
        for bar in (self._train_progress_bar, self._val_progress_bar, self._test_progress_bar):
            if bar is not None:
                bar.close()

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Shows which epoch of how many begins."""
        bar = self.train_progress_bar
        bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)
        bar.reset(self.total_train_batches)
