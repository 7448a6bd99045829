"""Labels for new texts from a finished run."""

import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from llm_cls.config.commands import PredictArguments
from llm_cls.config.schema import Config, EngineConfig, ModelConfig, TrainerConfig
from llm_cls.data.batches import EvalBatches
from llm_cls.data.columns import read_inputs, with_columns
from llm_cls.data.rows import read_rows
from llm_cls.data.template import Pieces
from llm_cls.data.tokenizer import Tokenizer, load_tokenizer
from llm_cls.data.tokens import Tokens, check_ids, tokenize
from llm_cls.errors import ArtifactError, ConfigError, LlmClsError, first_line
from llm_cls.hub import content_revision, is_local, source_name
from llm_cls.metrics.evaluation import log_softmax
from llm_cls.model.artifact import load_artifact, read_labels
from llm_cls.model.classifier import TextClassifier
from llm_cls.model.decoder import eos_ids, load_architecture, load_decoder
from llm_cls.runs import layout
from llm_cls.runs.config_file import read_config
from llm_cls.runs.schema import RunRecord
from llm_cls.runs.state import read_result
from llm_cls.runs.verify import verify_result
from llm_cls.training.devices import Hardware, resolve_hardware
from llm_cls.training.distributed import gather_logits
from llm_cls.training.prepare import tokenizer_facts


def predict_file(arguments: PredictArguments) -> tuple[list[str], tuple[str, ...], npt.NDArray[np.float64]]:
    """The labels and their probabilities for every text of a table, in its order.

    Returns:
        ``(ids, labels, probabilities)``; the probabilities have shape ``(n, n_labels)``.

    Raises:
        LlmClsError: The run is not finished or is damaged, or the table is not valid.
    """
    if not arguments.run.is_dir():
        raise ConfigError(f"run={arguments.run} is not a folder. Give the run directory that training printed")
    record, metrics = read_result(arguments.run)
    if record is None or metrics is None:
        raise ArtifactError(
            f"run={arguments.run} is not a finished run: it has no {layout.METRICS}. Finish the training"
        )
    folder = arguments.run / layout.MODEL
    if metrics.best_epoch is None:
        raise ArtifactError(f"run={arguments.run} diverged before its first epoch ended, so it has no model")
    verify_result(arguments.run, record, metrics)
    config = read_config(arguments.run / layout.CONFIG)
    config = config.model_copy(update={"model": _model_of(arguments, config.model, record)})
    ids, pieces = _read_texts(arguments, config)
    hardware = resolve_hardware(TrainerConfig(accelerator=arguments.accelerator))
    architecture = load_architecture(config.model)
    tokenizer = _load_own_tokenizer(folder, config.model, eos_ids(architecture), record)
    tokens = tokenize(pieces, tokenizer, config.data.max_length, config.data.truncation)
    check_ids(tokens, tokenizer, getattr(architecture, "vocab_size", None))
    dtype = torch.float32 if config.lora.full else hardware.frozen_dtype
    decoder = load_decoder(config.model, architecture, dtype, hardware.device, config.seed)
    classifier = load_artifact(decoder, config, folder)
    # Rounding to 8 bits, or compiling, would take longer than most inputs.
    engine = EngineConfig(name="reference" if config.engine.name == "reference" else "fast")
    classifier.use_engine(decoder, engine, config.lora.full, config.data.max_length, max_texts=1)
    labels = read_labels(folder)
    logits = predict_logits(classifier, tokens, len(labels), arguments.batch_size, hardware)
    if not np.isfinite(logits).all():
        raise ArtifactError(f"run={arguments.run} has a model whose scores are not finite. Train it again")
    return ids, labels, np.exp(log_softmax(logits.astype(np.float64)))


def _model_of(arguments: PredictArguments, model: ModelConfig, record: RunRecord) -> ModelConfig:
    """The pretrained model with the weights of the training.

    Raises:
        ConfigError: The model needs code of its own, which the command line does not allow.
        ArtifactError: The weights in its folder are others by now.
    """
    if model.trust_remote_code and not arguments.trust_remote_code:
        raise ConfigError(
            f"run={arguments.run} was trained with model.trust_remote_code=true. Add trust_remote_code=true if you "
            f"trust the code of {model.name}"
        )
    wanted = record.model.revision or ""
    if wanted.startswith("sha256:"):
        found = content_revision(Path(source_name(model.name))) if is_local(model.name) else "no such folder"
        if found != wanted:
            raise ArtifactError(
                f"{model.name} does not hold the weights that the run was trained with: expected {wanted[:19]}..., "
                f"found {found[:19]}.... Restore them"
            )
    commit = wanted if re.fullmatch("[0-9a-f]{40}", wanted) else model.revision
    return model.model_copy(update={"trust_remote_code": arguments.trust_remote_code, "revision": commit})


def _load_own_tokenizer(
    folder: Path, model: ModelConfig, eos_id: int | list[int] | None, record: RunRecord
) -> Tokenizer:
    """The tokenizer in ``model/`` of a run; one that has code comes from where the model comes from.

    The command line trusts the code of the model, not the copy of it in a run directory.

    Raises:
        ArtifactError: The files are damaged, or the model has another tokenizer by now.
    """
    if _has_code(folder):
        tokenizer = load_tokenizer(model, eos_id)
        if json.loads(json.dumps(tokenizer_facts(tokenizer))) != (record.identity or {}).get("model.tokenizer"):
            raise ArtifactError(
                f"{model.tokenizer or model.name} does not hold the tokenizer that the run was trained with. Restore it"
            )
        return tokenizer
    own = {"name": str(folder), "tokenizer": None, "revision": None}
    try:
        return load_tokenizer(model.model_copy(update=own), eos_id)
    except LlmClsError:
        raise
    except Exception as error:  # the libraries raise many kinds for a damaged file
        raise ArtifactError(f"{folder}: the tokenizer is damaged: {first_line(error)}. Restore it") from None


def _has_code(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return False  # loading it says what is wrong
    return isinstance(described, dict) and "AutoTokenizer" in (described.get("auto_map") or {})


def _read_texts(arguments: PredictArguments, config: Config) -> tuple[list[str], list[Pieces]]:
    """Ids and template pieces of the input; the columns are those of the training data unless named."""
    if arguments.output.resolve() == arguments.input.resolve():
        raise ConfigError("output must not be the input file")
    rows = read_rows(arguments.input)
    usual = config.data.id or "id"
    data = with_columns(
        config.data, config.template, arguments.text, arguments.title, arguments.body,
        id=arguments.id or (usual if usual in rows[0] else None),
    )  # fmt: skip
    return read_inputs(rows, data, config.template, arguments.input, section="")


@torch.inference_mode()
def predict_logits(
    classifier: TextClassifier, tokens: Tokens, n_labels: int, batch_size: int, hardware: Hardware
) -> npt.NDArray[np.float32]:
    """Logits of all texts, shape ``(n, n_labels)``, in their order."""
    batches = EvalBatches(tokens, np.full(len(tokens), -1, np.int64), batch_size)
    logits, indices = [], []
    autocast = torch.autocast(hardware.device.type, hardware.frozen_dtype, enabled=hardware.precision != "32-true")
    with autocast, tqdm(total=len(tokens), desc="Predicting", unit="text") as progress:
        for i in range(len(batches)):
            batch = batches[i]
            batch.input_ids = batch.input_ids.to(hardware.device)
            logits += [classifier(part) for part in batch.split(classifier.encoder.max_eval_tokens)]
            indices += batch.indices
            progress.update(len(batch.lengths))
    return gather_logits(logits, indices, len(tokens), n_labels)
