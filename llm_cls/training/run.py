"""One run, from its configuration to its result."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel

from llm_cls import signals
from llm_cls.cli import say, shown_path
from llm_cls.config.schema import Config
from llm_cls.data.datamodule import TextDataModule
from llm_cls.errors import ArtifactError, LostRankError
from llm_cls.metrics.selection import MONITORS
from llm_cls.model.artifact import save_artifact
from llm_cls.model.classifier import build_classifier
from llm_cls.runs import layout
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.identity import run_id, text_id
from llm_cls.runs.pruning import Pruner
from llm_cls.runs.record import changed_conditions, now
from llm_cls.runs.schema import Metrics, RunRecord
from llm_cls.training.checkpoints import Found, find_checkpoint
from llm_cls.training.launch import is_first_process, launch_ranks, launched_world_size
from llm_cls.training.module import ClassifierModule
from llm_cls.training.prepare import Inputs, prepare
from llm_cls.training.recorder import RunRecorder
from llm_cls.training.result import collect_metrics, prediction_lines
from llm_cls.training.shared import Shared
from llm_cls.training.trainer import build_trainer
from llm_cls.training.wandb_logger import run_logger
from llm_cls.training.watch import RankWatch, explain_lost_ranks

log = logging.getLogger(__name__)

_COMPILATION_FLOPS = 2.2e16  # of forward and backward pass; see _compilation_pays


def run(config: Config, path: Path, overrides: Sequence[str], shared: Shared, isolate: bool = False) -> Metrics:
    """Trains, scores and saves what ``config`` describes.

    A run that is complete is not repeated; one that was interrupted resumes after its last epoch.

    Args:
        config: The validated configuration.
        path: The run directory; created if it is missing.
        overrides: The command line, for the record.
        shared: What earlier runs in this process have loaded, and the ranks.
        isolate: Whether the run gets its own process, even on one device, or its own processes.

    Returns:
        Its result.

    Raises:
        LlmClsError: With one line that tells the user what to change.
    """
    inputs = prepare(config, shared)
    directory = RunDirectory(path, writes=is_first_process())
    if (metrics := _earlier_result(directory, inputs)) is not None:
        return metrics
    with directory.lock():
        if (metrics := _earlier_result(directory, inputs)) is not None:  # another process completed it in the meantime
            return metrics
        for warning in inputs.corpus.warnings:
            log.warning("%s", warning)
        found = find_checkpoint(directory, run_id(inputs.identity))  # before anything is written
        new = inputs.record(overrides)
        record = directory.begin(config, new)
        if changed := changed_conditions(record, new):
            conditions = "; ".join(changed)
            log.warning("This run began under other conditions (%s): results may differ in the last digits", conditions)
        try:
            if (isolate or inputs.hardware.world_size > 1) and launched_world_size() is None:
                return _train_in_ranks(directory, inputs, launch_ranks if isolate else shared.ranks.train)
            shared.ranks.end()  # those of earlier runs would hold memory
            return train(directory, inputs, record, shared, found)
        except Exception:
            directory.discard()
            raise


def _train_in_ranks(directory: RunDirectory, inputs: Inputs, launch: Callable[[Path, int, float], None]) -> Metrics:
    """The result of a run that ``launch`` trains in processes of its own."""
    try:
        launch(directory.path, inputs.hardware.devices, inputs.config.trainer.timeout_seconds)
    except LostRankError as error:
        if not directory.has_metrics:
            raise
        log.warning("%s. The run was complete by then", str(error).rstrip("."))
    metrics = directory.result(inputs.identity)
    assert metrics is not None  # the processes have completed it
    return metrics


def _earlier_result(directory: RunDirectory, inputs: Inputs) -> Metrics | None:
    """The result of the run, if it is already complete."""
    try:
        metrics = directory.result(inputs.identity)
    except ArtifactError:
        if directory.state.name != "running":
            raise
        return None  # another process is just writing these files
    if metrics is not None:
        say(f"{shown_path(directory.path)} is already finished; nothing to train")
    return metrics


@explain_lost_ranks()
def train(directory: RunDirectory, inputs: Inputs, record: RunRecord, shared: Shared, found: Found) -> Metrics:
    """Trains, scores and saves; every process of a run on several devices calls it."""
    started = time.perf_counter()
    config, corpus, tokenizer = inputs.config, inputs.corpus, inputs.tokenizer
    data = data_module(inputs, shared)
    module = build_module(inputs, data, shared)
    record = _with_sizes(record, inputs, module)
    monitor = MONITORS[config.trainer.monitor]
    pruner = None
    if directory.writes:
        texts, max_epochs = text_id(inputs.identity), config.trainer.max_epochs
        pruner = Pruner(config.pruner, directory.path, max_epochs, texts, monitor)
    checkpoint, faults = found
    shows_progress = config.trainer.progress_bar and shared.shows_progress
    tokens = len(data.tokens["train"].ids)
    recorder = RunRecorder(directory, tokens, run_id(inputs.identity), pruner, checkpoint, monitor)
    with (
        run_logger(config, directory, record, shared.wandb) as logger,
        signals.signals_first(),
        logging_redirect_tqdm() if shows_progress else nullcontext(),
        directory.explain_removal(),
        RankWatch(config.trainer.timeout_seconds, directory.path) as watch,
    ):
        trainer = build_trainer(inputs, directory, recorder, logger, watch, shows_progress)
        if checkpoint is not None:
            for fault in faults:
                log.warning("%s. The checkpoint before it is used", fault)
            log.info("Resuming after the last epoch of %s", checkpoint)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        has_best = recorder.load_best(module)
        trainer.validate(module, datamodule=data, verbose=False)
        scoring = time.perf_counter()
        if corpus.has_test:
            trainer.test(module, datamodule=data, verbose=False)
        test_seconds = time.perf_counter() - scoring
        directory.check_exists()
        seconds = recorder.earlier_seconds + time.perf_counter() - started
        val, test = module.evaluations["val"], module.evaluations.get("test")
        metrics = collect_metrics(recorder, val, test, corpus.labels, seconds, test_seconds)
        for split, evaluation in module.evaluations.items():
            directory.write_predictions(split, prediction_lines(evaluation, corpus, split, config.data.keep_texts))
        if has_best and directory.writes:
            save_artifact(module.classifier, tokenizer, corpus.labels, config, directory.path / layout.MODEL)
        if pruner is not None:
            pruner.end(metrics.val.value(monitor.name), recorder.pruned)
        directory.commit(record.model_copy(update={"finished_at": now()}), metrics)
        trainer.strategy.barrier()  # no process ends before the result is written
        logger.log_results(
            metrics, test, corpus, config.data.keep_texts
        )  # after the result, because W&B may not answer
    if not config.lora.full:
        shared.return_decoder(module.classifier.release(), config)
    return metrics


def data_module(inputs: Inputs, shared: Shared) -> TextDataModule:
    """The batches of a run."""
    config = inputs.config
    tokenized = shared.tokenized(inputs.corpus, inputs.tokenizer, config)
    return TextDataModule(tokenized, config.data, config.seed, inputs.class_weights)


def build_module(inputs: Inputs, data: TextDataModule, shared: Shared) -> ClassifierModule:
    """The network on this process's device, ready to train."""
    config, hardware = inputs.config, inputs.hardware
    data.check_ids(inputs.tokenizer, getattr(inputs.architecture, "vocab_size", None))
    frozen_dtype = torch.float32 if config.lora.full else hardware.frozen_dtype
    decoder = shared.take_decoder(config, inputs.architecture, frozen_dtype, hardware.device)
    checkpointing = config.engine.gradient_checkpointing
    if checkpointing is None:
        checkpointing = config.engine.name == "reference" and hardware.accelerator == "gpu"
    compiled = config.engine.compile
    if compiled is None:
        compiled = hardware.accelerator == "gpu" and _compilation_pays(decoder, data, config.trainer.max_epochs)
    n_labels, frozen = len(inputs.corpus.labels), shared.frozen_layers
    classifier = build_classifier(decoder, config, n_labels, checkpointing, compiled, frozen)
    shared.join(classifier)
    return ClassifierModule(classifier, config, data)


def _compilation_pays(decoder: PreTrainedModel, data: TextDataModule, epochs: int) -> bool:
    """Whether compiled layers save more time in training than their compilation takes.

    On an H100 the layers of Qwen3 1.7 B took 51 s to compile, and saved 35 s in each epoch of 2.6 million tokens.
    """
    weights = sum(p.numel() for p in decoder.parameters()) - sum(
        p.numel() for p in decoder.get_input_embeddings().parameters()
    )
    tokens = epochs * int(data.tokens["train"].lengths.sum())
    return 4 * weights * tokens >= _COMPILATION_FLOPS


def _with_sizes(record: RunRecord, inputs: Inputs, module: ClassifierModule) -> RunRecord:
    """``record`` with the parameters of the built network, which are logged."""
    parameters, trainable = module.classifier.count_parameters()
    log.info(
        "%s on %s: %s parameters, %s of them trained; %s texts, %s labels; %s layers",
        inputs.config.model.name, inputs.corpus.name, f"{parameters:,}", f"{trainable:,}",
        " / ".join(f"{len(texts):,}" for texts in inputs.corpus.splits.values()), len(inputs.corpus.labels),
        module.classifier.encoder.layers,
    )  # fmt: skip
    sizes = {"parameters": parameters, "trainable_parameters": trainable}
    return record.model_copy(update={"model": record.model.model_copy(update=sizes)})
