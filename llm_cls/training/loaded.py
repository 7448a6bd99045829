"""A finished run, verified once and loaded: what ``predict``, ``evaluate`` and ``llm_cls.load`` share."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PretrainedConfig

from llm_cls.config.schema import Config, ModelConfig, TrainerConfig
from llm_cls.data.template import Pieces
from llm_cls.data.tokenizer import Tokenizer, load_tokenizer
from llm_cls.data.tokens import Tokens, check_ids, tokenize
from llm_cls.errors import ArtifactError, ConfigError, LlmClsError, first_line
from llm_cls.hub import content_revision, is_local, source_name
from llm_cls.model.artifact import read_labels
from llm_cls.model.classifier import TextClassifier
from llm_cls.model.decoder import eos_ids, load_architecture
from llm_cls.runs import layout
from llm_cls.runs.calibration import CalibrationRecord, read_calibration
from llm_cls.runs.config_file import read_config
from llm_cls.runs.schema import Metrics, RunRecord
from llm_cls.runs.state import complete_result
from llm_cls.runs.verify import verify_result
from llm_cls.training.devices import Hardware, resolve_hardware
from llm_cls.training.prepare import tokenizer_facts
from llm_cls.training.scoring import load_classifier, log_probabilities


@dataclass(frozen=True)
class OpenedRun:
    """A finished run whose files have been verified, without its weights.

    Attributes:
        path: The run directory.
        record: ``run.json``.
        metrics: Its result.
        config: The configuration; ``config.model`` names the weights that the run was trained with.
        labels: All labels, in the order of the head's outputs.
        tokenizer: The tokenizer of the run.
        architecture: The ``transformers`` configuration of the model.
        calibration: The calibration that its log-probabilities get; None for those of the network.
    """

    path: Path
    record: RunRecord
    metrics: Metrics
    config: Config
    labels: tuple[str, ...]
    tokenizer: Tokenizer
    architecture: PretrainedConfig
    calibration: CalibrationRecord | None = None

    def calibrated(self, log_probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The log-probabilities of the network, shape ``(n, n_labels)``, with the calibration, if there is one."""
        return log_probabilities if self.calibration is None else self.calibration.scaling.apply(log_probabilities)

    def tokenize(self, pieces: Sequence[Pieces]) -> Tokens:
        """The token ids of rendered texts.

        Args:
            pieces: ``(head, tail)`` of each text, as ``data.template.render`` returns them.

        Raises:
            ConfigError: The network has no embedding for an id.
        """
        data = self.config.data
        tokens = tokenize(pieces, self.tokenizer, data.max_length, data.truncation)
        check_ids(tokens, self.tokenizer, getattr(self.architecture, "vocab_size", None))
        return tokens


@dataclass(frozen=True)
class LoadedRun:
    """An opened run with its classifier on a device.

    Attributes:
        opened: The run.
        classifier: Decoder, adapter and head, with the engine chosen, in eval mode.
        hardware: The device.
    """

    opened: OpenedRun
    classifier: TextClassifier
    hardware: Hardware

    def log_probabilities(self, pieces: Sequence[Pieces], batch_size: int) -> npt.NDArray[np.float64]:
        """The log-probability of every label for every text.

        Args:
            pieces: ``(head, tail)`` of each text, as ``data.template.render`` returns them.
            batch_size: Texts per forward pass.

        Returns:
            Shape ``(n, n_labels)``, in the order of the texts.

        Raises:
            ArtifactError: A score is not finite.
        """
        tokens = self.opened.tokenize(pieces)
        return self.opened.calibrated(log_probabilities(self.classifier, tokens, batch_size, self.hardware))


def open_run(path: Path, trust_remote_code: bool = False, calibrated: bool = False) -> OpenedRun:
    """Verifies a finished run and loads all of it but the weights.

    Args:
        path: The run directory.
        trust_remote_code: Whether code of the pretrained model may run; the run itself cannot allow it.
        calibrated: Whether its log-probabilities get its calibration.

    Raises:
        LlmClsError: The run is not finished, is damaged, needs code that is not allowed, or has no calibration.
    """
    record, metrics = complete_result(path)
    if metrics.best_epoch is None:
        raise ArtifactError(f"run={path} diverged before its first epoch ended, so it has no model. Train it again")
    verify_result(path, record, metrics)
    calibration = read_calibration(path, record) if calibrated else None
    if calibrated and calibration is None:
        raise ConfigError(f"run={path} has no {layout.CALIBRATION}. Run python -m llm_cls.calibrate run={path}")
    config = read_config(path / layout.CONFIG)
    config = config.model_copy(update={"model": _model_of(path, trust_remote_code, config.model, record)})
    folder = path / layout.MODEL
    labels = read_labels(folder)
    architecture = load_architecture(config.model)
    tokenizer = _load_own_tokenizer(folder, config.model, eos_ids(architecture), record)
    return OpenedRun(path, record, metrics, config, labels, tokenizer, architecture, calibration)


def load_run(opened: OpenedRun, hardware: Hardware) -> LoadedRun:
    """Loads the weights of an opened run onto the device of this process."""
    return LoadedRun(opened, load_classifier(opened.path, opened.config, opened.architecture, hardware), hardware)


def scoring_hardware(accelerator: str, devices: int = 1) -> Hardware:
    """The devices on which texts are scored, in the precision of the training.

    Args:
        accelerator: "auto", "cpu" or "gpu".
        devices: Processes, each with a device of its own.

    Raises:
        ConfigError: There are fewer devices.
    """
    try:
        return resolve_hardware(TrainerConfig.model_validate({"accelerator": accelerator, "devices": devices}))
    except ConfigError as error:  # training calls these keys trainer.accelerator and trainer.devices
        text = str(error).replace("Try trainer=cpu", "Try trainer.accelerator=cpu").replace("trainer.", "")
        raise ConfigError(text) from None


def _model_of(path: Path, trust_remote_code: bool, model: ModelConfig, record: RunRecord) -> ModelConfig:
    """The pretrained model with the weights of the training.

    Raises:
        ConfigError: The model needs code of its own, which the command line does not allow.
        ArtifactError: The weights in its folder are others by now.
    """
    if model.trust_remote_code and not trust_remote_code:
        raise ConfigError(
            f"run={path} was trained with model.trust_remote_code=true. Add trust_remote_code=true if you "
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
    return model.model_copy(update={"trust_remote_code": trust_remote_code, "revision": commit})


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
