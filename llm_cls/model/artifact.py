"""The saved classifier: ``model/`` of a run directory, each file under its sha256."""

from pathlib import Path
from typing import Any

import torch
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_cls.config.schema import Config
from llm_cls.data.tokenizer import Tokenizer
from llm_cls.engine.probe import state_size
from llm_cls.errors import ArtifactError, first_line
from llm_cls.files import atomic_folder, write_json
from llm_cls.model.classifier import TextClassifier, failures_in_one_line
from llm_cls.model.lora import add_adapter
from llm_cls.runs.content import read_content
from llm_cls.runs.layout import ADAPTER, HEAD, LABELS, NETWORK
from llm_cls.runs.manifest import write_model_manifest
from llm_cls.runs.schema import Labels

_ADAPTED = (nn.Linear, nn.Embedding, Conv1D)  # by PEFT, under the name of the layer
_PREFIX = "base_model.model."  # of every tensor in PEFT's files


def save_artifact(
    classifier: TextClassifier, tokenizer: Tokenizer, labels: tuple[str, ...], config: Config, directory: Path
) -> None:
    """Writes everything that predicting needs besides the pretrained weights, as a whole."""
    with atomic_folder(directory) as folder:
        if config.lora.enabled:
            decoder: Any = classifier.decoder
            _name_base_model(decoder, config)
            decoder.save_pretrained(folder, save_embedding_layers=False)  # they are frozen
            (folder / "README.md").unlink(missing_ok=True)  # an empty model card
        elif config.lora.full:
            save_file({k: v.contiguous() for k, v in classifier.decoder.state_dict().items()}, folder / NETWORK)
        save_file({"weight": classifier.head.weight.detach().cpu().contiguous()}, folder / HEAD)
        tokenizer.save(folder)
        write_json(folder / LABELS, list(labels))
        write_model_manifest(folder)


def _name_base_model(decoder: Any, config: Config) -> None:
    """Names the pretrained model in ``adapter_config.json`` as the hub does, never by a path of this machine."""
    for settings in decoder.peft_config.values():
        settings.base_model_name_or_path = config.model.name
        settings.revision = config.model.revision
        if isinstance(settings.target_modules, set):
            settings.target_modules = sorted(settings.target_modules)  # the same file for the same run


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
    with failures_in_one_line(decoder):
        hidden_size = state_size(decoder)
    network: nn.Module = decoder.requires_grad_(False)
    try:
        if config.lora.enabled:
            state = load_file(directory / ADAPTER)
            # The layers by their names in the file, and the rest from the configuration: adapter_config.json may name
            # modules to import, and PEFT's default layers may change.
            layers = sorted({name.removeprefix(_PREFIX).partition(".lora_")[0] for name in state if ".lora_" in name})
            lora = config.lora
            if all(isinstance(decoder.get_submodule(layer), _ADAPTED) for layer in layers):
                lora = lora.model_copy(update={"target_modules": layers})
            # Otherwise they are experts, whose parameters PEFT adapts only where it finds them itself.
            network = add_adapter(decoder, lora)
            result: Any = set_peft_model_state_dict(network, state)
            missing = [key for key in result.missing_keys if "lora_" in key]
            if missing or result.unexpected_keys:
                raise ValueError(f"{(missing or result.unexpected_keys)[0]!r} is missing or unknown")
        elif config.lora.full:
            network.load_state_dict(load_file(directory / NETWORK))
        classifier = TextClassifier(network, hidden_size, len(labels), config.model.pooling)
        classifier.head.load_state_dict(load_file(directory / HEAD))
    except Exception as error:  # each library has its own kinds
        raise ArtifactError(f"{directory} does not fit {config.model.name}: {first_line(error)}") from None
    device: torch.device = decoder.device
    return classifier.to(device).requires_grad_(False).eval()
