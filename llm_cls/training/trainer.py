"""Lightning's trainer as a run uses it."""

import sys
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping

from llm_cls.runs.directory import RunDirectory
from llm_cls.training.checkpoints import AtomicCheckpointIO
from llm_cls.training.distributed import ReplicatedStrategy, leave_signals_to_command
from llm_cls.training.prepare import Inputs
from llm_cls.training.progress import ProgressBar
from llm_cls.training.recorder import RunRecorder
from llm_cls.training.wandb_logger import RunLogger
from llm_cls.training.watch import RankWatch


def build_trainer(
    inputs: Inputs,
    directory: RunDirectory,
    recorder: RunRecorder,
    logger: RunLogger,
    watch: RankWatch,
    shows_progress: bool,
) -> Trainer:
    """The trainer of one run."""
    config, hardware = inputs.config.trainer, inputs.hardware
    callbacks: list[Callback] = [recorder]
    plugins: list[Any] = [AtomicCheckpointIO()]
    if hardware.world_size == 1:  # whatever SLURM's variables say about the tasks of its job
        plugins.append(LightningEnvironment())
    terminal = sys.stdout is not None and sys.stdout.isatty()  # None where it is closed
    if has_bar := shows_progress and terminal:  # in a file it would be one line without an end
        callbacks.append(ProgressBar())
    if (patience := config.early_stopping_patience) is not None:
        mode = "max" if recorder.monitor.larger_is_better else "min"
        callbacks.append(EarlyStopping(f"val/{config.monitor}", mode=mode, patience=patience, check_finite=False))
    one_gpu = hardware.accelerator == "gpu" and hardware.devices == 1
    trainer = Trainer(
        accelerator=hardware.accelerator,
        devices=[hardware.device.index] if one_gpu else hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=ReplicatedStrategy(watch) if hardware.world_size > 1 else "auto",
        precision=hardware.precision,  # type: ignore[arg-type]
        max_epochs=config.max_epochs,
        callbacks=callbacks,
        plugins=plugins,
        logger=logger.lightning,
        default_root_dir=directory.path,
        enable_progress_bar=has_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # batches.py distributes the texts, each exactly once
        reload_dataloaders_every_n_epochs=1,  # each epoch has its own order
    )
    if hardware.world_size > 1:
        leave_signals_to_command(trainer)
    return trainer
