"""One run, from its configuration to ``metrics.json``."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PretrainedConfig

from llm_cls import signals
from llm_cls.cli import say
from llm_cls.config.schema import Config, dump_config
from llm_cls.data.corpus import Corpus
from llm_cls.data.datamodule import TextDataModule
from llm_cls.data.tokenizer import Tokenizer
from llm_cls.errors import (
    EXIT_INTERRUPTED,
    ConfigError,
    LockedError,
    RankError,
    RunInterrupted,
)
from llm_cls.files import sha256_json, write_json, write_text
from llm_cls.model.artifact import save_artifact
from llm_cls.model.classifier import build_classifier
from llm_cls.model.decoder import positions
from llm_cls.runs import schema as run_files
from llm_cls.runs.pruning import Pruner
from llm_cls.runs.record import (
    check_same_run,
    describe_run,
    forget_unless_begun,
    identity,
    now,
    remove_leftovers,
    run_id,
    summarize,
    write_predictions,
)
from llm_cls.runs.sweep import LOCK, clear_failure, is_locked
from llm_cls.training.callbacks import LAST, AtomicCheckpointIO, ProgressBar, RunRecorder
from llm_cls.training.devices import Hardware, check_fp8, resolve_hardware
from llm_cls.training.distributed import ReplicatedStrategy
from llm_cls.training.launch import is_first_process, launch_ranks, started_together
from llm_cls.training.module import ClassifierModule
from llm_cls.training.shared import Shared
from llm_cls.training.wandb_logger import RunLogger, run_logger

log = logging.getLogger(__name__)

_TEXTS = ("data.digest", "data.split", "data.split_seed", "data.fold")  # of the identity: what scores are scores of


@dataclass(frozen=True)
class Inputs:
    """What a run needs before any weight is loaded: all of it checked."""

    hardware: Hardware
    corpus: Corpus
    architecture: PretrainedConfig
    tokenizer: Tokenizer
    identity: dict[str, Any]


def run(
    config: Config, directory: Path, overrides: Sequence[str], shared: Shared | None = None, isolate: bool = False
) -> dict[str, Any]:
    """Trains, scores and saves what ``config`` describes, in ``directory``.

    A run that is finished there is not repeated; one that was interrupted goes on after its last epoch.

    Args:
        config: The validated configuration.
        directory: The run directory; made if need be.
        overrides: The command line, for the record.
        shared: What earlier runs in this process have loaded.
        isolate: Whether the run gets a process of its own, even on one device.

    Returns:
        The content of ``metrics.json``.

    Raises:
        LlmClsError: In one line, what a user can mend.
    """
    shared = shared or Shared()
    inputs = prepare(config, shared)
    if (metrics := _finished(directory, inputs)) is not None:
        return metrics
    with _lock(directory):
        if (metrics := _finished(directory, inputs)) is not None:  # by the process that had the lock until now
            return metrics
        for warning in inputs.corpus.warnings:
            log.warning("%s", warning)
        record = (check_same_run(directory, inputs.identity) if is_first_process() else None) or describe_run(
            config, inputs.corpus, inputs.identity, overrides, inputs.hardware.description, inputs.hardware.world_size
        )
        if is_first_process():
            remove_leftovers(directory)
            clear_failure(directory)
            write_text(directory / "config.yaml", dump_config(config))
            write_json(directory / "run.json", record)
        try:
            if (isolate or inputs.hardware.world_size > 1) and started_together() is None:
                if (code := launch_ranks(directory, inputs.hardware.devices)) == EXIT_INTERRUPTED:
                    raise RunInterrupted("Interrupted")
                if code:
                    raise RankError(code)
            else:
                train(config, directory, inputs, record, shared)
        except Exception:
            if is_first_process():
                forget_unless_begun(directory)
            raise
    metrics = read_metrics(directory)
    assert metrics is not None
    return metrics


def _finished(directory: Path, inputs: Inputs) -> dict[str, Any] | None:
    """The result that is already in ``directory``, where nothing is written then."""
    if not is_first_process() and is_locked(directory):
        return None  # the first process is at it already; all of them compare themselves before they train
    if check_same_run(directory, inputs.identity) is None:
        return None
    if (metrics := read_metrics(directory)) is not None:
        if is_first_process():
            remove_leftovers(directory, finished=True)
        say(f"{os.path.relpath(directory)} is finished already; nothing is trained")
    return metrics


def prepare(config: Config, shared: Shared) -> Inputs:
    """Everything that can be checked before the weights are loaded.

    Raises:
        LlmClsError: In one line, what a user can mend.
    """
    hardware = resolve_hardware(config.trainer)
    if config.engine.name == "fp8":
        check_fp8(hardware)
    if (ranks := started_together()) not in (None, hardware.world_size):
        raise ConfigError(
            f"torchrun or srun has started {ranks} processes, but trainer.devices={hardware.devices} and "
            f"trainer.num_nodes={hardware.num_nodes} make {hardware.world_size}. Start as many"
        )
    if hardware.num_nodes > 1 and ranks is None:
        raise ConfigError(
            f"trainer.num_nodes={hardware.num_nodes} needs a process on every machine. Start it with SLURM, or on "
            f"each of them with torchrun --nnodes={hardware.num_nodes} --nproc-per-node={hardware.devices} ... "
            "-m llm_cls.train ..."
        )
    architecture, revision, tokenizer = shared.model(config.model)
    limit = positions(architecture)
    if limit is not None and config.data.max_length > limit:
        raise ConfigError(
            f"data.max_length must be <= {limit}, the positions of {config.model.name}, "
            f"got {config.data.max_length}. Try data.max_length={limit}"
        )
    if tokenizer.vocab_size > architecture.vocab_size:
        raise ConfigError(
            f"model.tokenizer has {tokenizer.vocab_size} tokens, but {config.model.name} knows "
            f"{architecture.vocab_size}. Give the tokenizer that belongs to the model"
        )
    corpus = shared.corpus(config.data)
    if hardware.world_size > config.data.batch_size:
        raise ConfigError(
            f"trainer.devices must be <= data.batch_size ({config.data.batch_size}), got {hardware.world_size}"
        )
    parts = identity(config, corpus, tokenizer, revision, hardware.precision)
    return Inputs(hardware, corpus, architecture, tokenizer, parts)


def train(config: Config, directory: Path, inputs: Inputs, record: dict[str, Any], shared: Shared) -> None:
    """The part of a run that needs the network; every rank of a run on several devices calls it."""
    started = time.perf_counter()
    corpus, tokenizer, hardware = inputs.corpus, inputs.tokenizer, inputs.hardware
    data = TextDataModule(corpus, tokenizer, config.template, config.data, config.seed)
    module = build_module(config, inputs, data, shared)
    classifier = module.classifier
    parameters, trainable = classifier.count_parameters()
    record["model"] |= {"parameters": parameters, "trainable_parameters": trainable}
    log.info(
        "%s on %s: %s parameters, %s of them trained; %s texts, %s labels",
        config.model.name, corpus.name, f"{parameters:,}", f"{trainable:,}",
        " / ".join(f"{len(t):,}" for t in corpus.splits.values()), len(corpus.labels),
    )  # fmt: skip
    texts = sha256_json({key: value for key, value in inputs.identity.items() if key in _TEXTS})
    pruner = Pruner(config.pruner, directory, config.trainer.max_epochs, texts) if is_first_process() else None
    recorder = RunRecorder(directory, len(data.tokens["train"].ids), run_id(inputs.identity), pruner)
    with (
        run_logger(config, directory, record, is_first_process()) as logger,
        signals.before_errors(),
        logging_redirect_tqdm(),
        recorder.explain_removal(),
    ):
        trainer = _trainer(config, hardware, directory, recorder, logger, data.steps_per_epoch)
        last = directory / "checkpoints" / LAST
        if last.is_file():
            log.info("Going on after the last epoch of %s", directory)
        trainer.fit(module, datamodule=data, ckpt_path=last if last.is_file() else None)
        has_best = recorder.load_best(module)
        trainer.validate(module, datamodule=data, verbose=False)
        trainer.test(module, datamodule=data, verbose=False)
        recorder.check_directory()
        metrics: dict[str, Any] | None = None
        if trainer.is_global_zero:
            val, test = module.evaluations["val"], module.evaluations["test"]
            for split, evaluation in module.evaluations.items():
                path = directory / "predictions" / f"{split}.jsonl"
                write_predictions(path, evaluation, corpus.splits[split], corpus)
            if has_best:
                save_artifact(classifier, tokenizer, corpus.labels, config, directory / "model")
            seconds = recorder.earlier_seconds + time.perf_counter() - started
            metrics = summarize(
                recorder.status, recorder.best_epoch, recorder.history, seconds, val, test, corpus.labels
            )
            logger.log_results(metrics, test, corpus)
    if metrics is not None:
        write_json(directory / "run.json", record | {"finished_at": now()})
        if pruner is not None:
            pruner.end(metrics["val"]["f1"], recorder.pruned)
        write_json(directory / "metrics.json", metrics)
        clear_failure(directory)
        remove_leftovers(directory, finished=True)
    trainer.strategy.barrier()  # the other processes read metrics.json next
    if not config.lora.full:
        shared.return_decoder(classifier.release(), config)


def build_module(config: Config, inputs: Inputs, data: TextDataModule, shared: Shared) -> ClassifierModule:
    """The network on this process's device, ready to train."""
    hardware = inputs.hardware
    frozen_dtype = torch.float32 if config.lora.full else hardware.frozen_dtype
    decoder = shared.take_decoder(config, inputs.architecture, frozen_dtype, hardware.device)
    checkpointing = config.engine.gradient_checkpointing
    if checkpointing is None:
        checkpointing = config.engine.name == "reference" and hardware.accelerator == "gpu"
    classifier = build_classifier(decoder, config, len(inputs.corpus.labels), checkpointing)
    return ClassifierModule(classifier, config, data)


def read_metrics(directory: Path) -> dict[str, Any] | None:
    """``metrics.json`` of a run; None while the run isn't finished.

    Raises:
        ArtifactError: The file is damaged.
    """
    return None if run_files.read_metrics(directory) is None else run_files.read_object(directory / "metrics.json")


def _trainer(
    config: Config,
    hardware: Hardware,
    directory: Path,
    recorder: RunRecorder,
    logger: RunLogger,
    steps_per_epoch: int,
) -> Trainer:
    callbacks: list[Callback] = [recorder]
    plugins: list[Any] = [AtomicCheckpointIO()]
    if hardware.world_size == 1:  # whatever SLURM's variables say of the tasks of its job
        plugins.append(LightningEnvironment())
    if config.trainer.progress_bar:
        callbacks.append(ProgressBar(steps_per_epoch))
    if (patience := config.trainer.early_stopping_patience) is not None:
        callbacks.append(EarlyStopping("val/f1", mode="max", patience=patience, check_finite=False))
    return Trainer(
        accelerator=hardware.accelerator,
        devices=[hardware.device.index]
        if hardware.accelerator == "gpu" and hardware.devices == 1
        else hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=ReplicatedStrategy() if hardware.world_size > 1 else "auto",
        precision=hardware.precision,  # type: ignore[arg-type]
        max_epochs=config.trainer.max_epochs,
        callbacks=callbacks,
        plugins=plugins,
        logger=logger.lightning,
        default_root_dir=directory,
        enable_progress_bar=config.trainer.progress_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # batches.py shares out the texts, each exactly once
        reload_dataloaders_every_n_epochs=1,  # each epoch has its own order
    )


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Holds the run directory; the lock of a process that died is free.

    Raises:
        ResourceError: Another process holds it.
    """
    if not is_first_process():
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    # A moment's patience: whoever asks how far a sweep is touches the locks of its runs.
    lock = filelock.FileLock(directory / LOCK, timeout=1)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise LockedError(
            f"{directory} is in use by another process. Wait for it, or give another hydra.run.dir"
        ) from None
    try:
        yield
    finally:
        lock.release()
