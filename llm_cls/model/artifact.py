"""The saved classifier: ``model/`` of a run directory, each file under its sha256."""

import shutil
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from llm_cls.config.schema import Config
from llm_cls.data.tokenizer import Tokenizer
from llm_cls.errors import ArtifactError, first_line
from llm_cls.files import sha256_file, write_json
from llm_cls.model.classifier import TextClassifier
from llm_cls.runs.content import read_content
from llm_cls.runs.layout import ADAPTER, HEAD, LABELS, MANIFEST, NETWORK
from llm_cls.runs.schema import Labels, Manifest


def save_artifact(
    classifier: TextClassifier, tokenizer: Tokenizer, labels: tuple[str, ...], config: Config, directory: Path
) -> None:
    """Writes everything that predicting needs besides the pretrained weights; the manifest comes last."""
    if directory.is_dir():
        shutil.rmtree(directory)  # left by a process that was killed while writing
    directory.mkdir(parents=True)
    if config.lora.enabled:
        decoder: Any = classifier.decoder
        _name_base_model(decoder, config)
        decoder.save_pretrained(directory, save_embedding_layers=False)  # they are frozen
        (directory / "README.md").unlink(missing_ok=True)  # an empty model card
    elif config.lora.full:
        save_file({k: v.contiguous() for k, v in classifier.decoder.state_dict().items()}, directory / NETWORK)
    save_file({"weight": classifier.head.weight.detach().cpu().contiguous()}, directory / HEAD)
    tokenizer.save(directory)
    write_json(directory / LABELS, list(labels))
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
    write_json(directory / MANIFEST, {p.relative_to(directory).as_posix(): sha256_file(p) for p in files})


def _name_base_model(decoder: Any, config: Config) -> None:
    """Names the pretrained model in ``adapter_config.json`` as the hub does, never by a path of this machine."""
    for settings in decoder.peft_config.values():
        settings.base_model_name_or_path = config.model.name
        settings.revision = config.model.revision
        if isinstance(settings.target_modules, set):
            settings.target_modules = sorted(settings.target_modules)  # the same file for the same run


def verify_artifact(directory: Path) -> None:
    """Compares every file with the manifest.

    Raises:
        ArtifactError: A file is missing, damaged or not listed.
    """
    path = directory / MANIFEST
    manifest = read_content(path, Manifest, "Restore it or train the run again")
    if manifest is None:
        raise ArtifactError(f"{path} is missing: the run in {directory.parent} has not finished")
    expected = manifest.root
    present = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()} - {MANIFEST}
    if unlisted := sorted((present | {HEAD, LABELS}) - expected.keys()):
        raise ArtifactError(f"{path} does not list {unlisted[0]}. Restore both or train the run again")
    for name, digest in expected.items():
        file = directory / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing. Restore it or train the run again")
        if (found := sha256_file(file)) != digest:
            raise ArtifactError(
                f"{file} is damaged: its sha256 must be {digest[:12]}..., found {found[:12]}.... "
                "Restore it or train the run again"
            )


def read_labels(directory: Path) -> tuple[str, ...]:
    """The labels, in the order of the head's outputs.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    labels = read_content(directory / LABELS, Labels, "Restore it or train the run again")
    if labels is None:
        raise ArtifactError(f"{directory / LABELS} is missing. Restore it or train the run again")
    return tuple(labels.root)


def load_artifact(decoder: PreTrainedModel, config: Config, directory: Path) -> TextClassifier:
    """A saved classifier on freshly loaded pretrained weights, in eval mode.

    Args:
        decoder: The pretrained network that the run started from.
        config: The run's configuration.
        directory: The ``model/`` folder of the run, already verified.

    Raises:
        ArtifactError: The files don't fit the network.
    """
    labels = read_labels(directory)
    hidden_size: int = decoder.config.hidden_size
    network: nn.Module = decoder.requires_grad_(False)
    try:
        if config.lora.enabled:
            settings = peft.LoraConfig.from_pretrained(str(directory))
            settings.inference_mode = True
            network = peft.get_peft_model(decoder, settings)
            result: Any = set_peft_model_state_dict(network, load_file(directory / ADAPTER))
            missing = [key for key in result.missing_keys if "lora_" in key]
            if missing or result.unexpected_keys:
                raise ValueError(f"{(missing or result.unexpected_keys)[0]!r} is missing or unknown")
        elif config.lora.full:
            network.load_state_dict(load_file(directory / NETWORK))
        classifier = TextClassifier(network, hidden_size, len(labels), config.model.pooling)
        classifier.head.load_state_dict(load_file(directory / HEAD))
    except (RuntimeError, ValueError, KeyError) as error:
        raise ArtifactError(f"{directory} does not fit {config.model.name}: {first_line(error)}") from None
    device: torch.device = decoder.device
    return classifier.to(device).eval()
