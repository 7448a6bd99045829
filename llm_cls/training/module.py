"""The LightningModule: one call of ``training_step`` is one optimizer step."""

from typing import Any, Self

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import SumMetric

from llm_cls import signals
from llm_cls.config.schema import Config
from llm_cls.data.batches import Batch, Step
from llm_cls.data.datamodule import TextDataModule
from llm_cls.errors import ArtifactError
from llm_cls.metrics.evaluation import Evaluation, evaluate
from llm_cls.model.classifier import TextClassifier
from llm_cls.training.distributed import gather_logits, sum_gradients
from llm_cls.training.loss import training_loss
from llm_cls.training.optimizer import build_optimizer, build_schedule
from llm_cls.training.run_thread import JointEncoder


class ClassifierModule(LightningModule):
    """Trains and scores a ``TextClassifier``.

    The optimizer is stepped manually, because an optimizer step here is a fixed set of texts over all
    devices and micro batches: each micro batch adds its part of the mean over that set.

    Attributes:
        evaluations: The latest evaluation of "val" and "test".
        latest_loss: Of the latest optimizer step, a float32 scalar on the device; reading it waits for the device.
    """

    def __init__(self, classifier: TextClassifier, config: Config, data: TextDataModule) -> None:
        """Takes a built classifier."""
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold what is trained; on_load_checkpoint checks that
        self.classifier, self._config, self._data = classifier, config, data
        self._train_loss = SumMetric(nan_strategy="disable")  # a NaN must reach the result
        self.evaluations: dict[str, Evaluation] = {}
        self.latest_loss: Tensor | None = None
        self._logits: list[Tensor] = []
        self._indices: list[int] = []
        self._class_weights: Tensor | None = None

    def cpu(self) -> Self:
        """Keeps the weights on the device; Lightning would move them to the CPU and back at each stage."""
        return self

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and its schedule per step."""
        optimizer = build_optimizer(self.classifier, self._config.optimizer)
        schedule = build_schedule(
            optimizer, self._config.optimizer, self._data.steps_per_epoch, self._config.trainer.max_epochs
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_fit_start(self) -> None:
        """Copies the class weights to the device."""
        if (weights := self._data.class_weights) is not None:
            self._class_weights = torch.tensor(weights, dtype=torch.float32, device=self.device)

    def on_train_epoch_start(self) -> None:
        """Turns dropout on."""
        self.classifier.train()

    def on_train_batch_start(self, batch: Step, batch_idx: int) -> None:
        """Seeds each epoch, so that a resumed run draws the same random numbers as an uninterrupted one.

        This hook runs after Lightning has made its data loader, whose use of random numbers differs after a resume.
        """
        if batch_idx == 0:
            stream = self.current_epoch * self.trainer.world_size + self.global_rank
            torch.manual_seed(self._config.seed + 1_000_003 * stream)

    def training_step(self, step: Step, batch_idx: int) -> None:
        """One optimizer step over all devices."""
        signals.raise_if_received()
        optimizer: Any = self.optimizers()
        total = torch.zeros((), device=self.device)
        max_tokens = self.classifier.encoder.max_tokens
        for batch in (part for micro in step.micro_batches for part in micro.split(max_tokens)):
            logits = self.classifier(batch)
            loss = training_loss(logits, batch.labels, step.weight, self._config.loss, self._class_weights)
            with torch.autocast(self.device.type, enabled=False):  # autocast is for the forward pass only
                self.manual_backward(loss)
            if isinstance(self.classifier.encoder, JointEncoder):
                self.classifier.encoder.backward()
            total += loss.detach()
        sum_gradients(self)
        optimizer.step()
        optimizer.zero_grad()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        self._train_loss.update(total * step.weight)
        # Not by ``self.log``: Lightning reads what it has to show after every step, and would wait for the device.
        self.latest_loss = total * self.trainer.world_size

    def take_train_loss(self) -> float:
        """Mean of what training minimises since the last call, over all devices; an epoch has each text once.

        With class weights the mean is weighted by them, and focal loss and smoothed labels are in it, so it is not
        comparable with the loss of val, which is a score: always the plain mean cross-entropy.
        """
        total = float(self._train_loss.compute())
        self._train_loss.reset()
        return total / self._data.train_weight

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips the gradients, which are already unscaled and summed over the devices."""
        if (limit := self._config.optimizer.max_grad_norm) is not None:
            nn.utils.clip_grad_norm_([p for p in self.parameters() if p.requires_grad], limit)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keeps the logits of a batch."""
        signals.raise_if_received()
        self._logits += [self.classifier(part) for part in batch.split(self.classifier.encoder.max_eval_tokens)]
        self._indices += batch.indices

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keeps the logits of a batch."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Scores the val split."""
        self._evaluate("val")
        name = self._config.trainer.monitor
        self.log(f"val/{name}", self.evaluations["val"].value(name), prog_bar=True, logger=False)

    def on_test_epoch_end(self) -> None:
        """Scores the test split."""
        self._evaluate("test")

    def _evaluate(self, split: str) -> None:
        labels = self._data.labels(split)
        n_labels = len(self._data.corpus.labels)
        logits = gather_logits(self._logits, self._indices, len(labels), n_labels)
        self.evaluations[split] = evaluate(logits, labels)
        self._logits, self._indices = [], []

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors that training changes, on the CPU."""
        return {name: p.detach().cpu().contiguous() for name, p in self.classifier.trainable_state().items()}

    def load_trainable_state(self, state: dict[str, Tensor], source: str) -> None:
        """Restores what ``trainable_state`` returned.

        Raises:
            ArtifactError: Some tensor is missing, unknown or of another shape; ``source`` names the file.
        """
        own = self.classifier.trainable_state()
        wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
        if wrong or len(state) != len(own):
            example = (wrong or sorted(state.keys() - own.keys()))[0]
            raise ArtifactError(f"{source} does not fit the model: {example!r} is missing, unknown or of another shape")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves the frozen weights out: they are gigabytes and never change."""
        checkpoint["state_dict"] = self.trainable_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores what is trained, and checks that nothing is missing."""
        self.load_trainable_state(checkpoint["state_dict"], "the checkpoint")
        checkpoint["state_dict"] = {}
