"""The progress bar."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from llm_cls.training.module import ClassifierModule

_STEPS = 10  # from one loss that is shown to the next: reading it waits for the device


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar, counting epochs from 1, for a terminal."""

    def __init__(self) -> None:
        """A bar that disappears when it is full."""
        self._shown: dict[str, Any] = {}
        super().__init__(leave=False)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Loss and val score, without the version number of a logger; between some steps the latest values."""
        amid_steps = trainer.training and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if not amid_steps or trainer.fit_loop.batch_idx % _STEPS == 0:
            assert isinstance(pl_module, ClassifierModule)
            loss = {} if pl_module.latest_loss is None else {"loss": float(pl_module.latest_loss)}
            self._shown = loss | super().get_metrics(trainer, pl_module)
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
