"""The progress bar."""

import sys
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from llm_cls.training.module import LOG_EVERY_STEPS


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar, counting epochs from 1; on a terminal it moves, elsewhere it prints a few lines."""

    def __init__(self, steps_per_epoch: int) -> None:
        """Sizes the refresh interval for a terminal or a log file."""
        self._watched = sys.stdout.isatty()
        self._shown: dict[str, Any] = {}
        super().__init__(refresh_rate=1 if self._watched else max(1, steps_per_epoch // 4), leave=False)

    def init_validation_tqdm(self) -> Tqdm:
        """The bar of an evaluation; it is not shown in a log file."""
        bar = super().init_validation_tqdm()
        bar.disable = bar.disable or not self._watched
        return bar

    def init_test_tqdm(self) -> Tqdm:
        """See ``init_validation_tqdm``."""
        bar = super().init_test_tqdm()
        bar.disable = bar.disable or not self._watched
        return bar

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
