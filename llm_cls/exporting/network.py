"""A trained classifier as the sequence classification network that ``transformers`` has for its architecture."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.activations import GELUActivation
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from llm_cls.errors import ConfigError
from llm_cls.files import write_json
from llm_cls.metrics.calibration import Scaling
from llm_cls.model.classifier import TextClassifier

# Heads of encoders have a layer and an activation before their last layer. At 0 these activations are linear: inputs
# scaled down by a power of two, and up again in the last layer, pass them within the rounding of float32.
_SCALES: dict[type, tuple[float, float]] = {nn.Tanh: (2.0**-14, 1.0), GELUActivation: (2.0**-24, 0.5)}

# vLLM derives the network from that of the causal language model, which has no Text in its name.
_SERVED_AS = {"Gemma3TextForSequenceClassification": "Gemma3ForSequenceClassification"}


@dataclass(frozen=True)
class Head:
    """A linear head.

    Attributes:
        weight: Shape ``(n_labels, hidden_size)``.
        bias: Shape ``(n_labels,)``; None if it has none.
    """

    weight: Tensor
    bias: Tensor | None = None

    def scaled(self, scaling: Scaling | None) -> "Head":
        """The head whose probabilities are calibrated: the softmax of logits / T + b."""
        if scaling is None or scaling.identity:
            return self
        bias = torch.tensor(scaling.biases, dtype=torch.float32) if any(scaling.biases) else None
        return Head((self.weight.double() / scaling.temperature).float(), bias)


# Without images, networks that read them compute what these do: all three positions of a token are the same.
_WITHOUT_IMAGES = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}


def merged_network(
    classifier: TextClassifier, head: Head, labels: Sequence[str], pad_id: int, as_checkpoint: bool = True
) -> PreTrainedModel:
    """The network with the adapter in its weights; ``classifier`` cannot be used afterwards.

    Args:
        classifier: Of the run, float32.
        head: That of the classifier, or a calibrated one.
        labels: In the order of the head's outputs.
        pad_id: Id of the padding token.
        as_checkpoint: See ``with_head``.

    Raises:
        ConfigError: ``transformers`` has no such network that computes the same.
    """
    classifier.encoder.release()
    decoder: Any = classifier.decoder
    if isinstance(decoder, peft.PeftModel):
        decoder = decoder.merge_and_unload(safe_merge=True)
    return with_head(_without_images(decoder), head, classifier.pooling, labels, pad_id, as_checkpoint)


def _without_images(decoder: Any) -> PreTrainedModel:
    """The language model of a network that also reads images, as the architecture that it was made of."""
    kind = _WITHOUT_IMAGES.get(decoder.config.model_type)
    if kind is None:
        same: PreTrainedModel = decoder
        return same
    described = decoder.config.to_dict()
    del described["model_type"]
    described["rope_parameters"] = {k: v for k, v in described["rope_parameters"].items() if not k.startswith("mrope")}
    config = AutoConfig.for_model(kind, **described)
    network: Any = AutoModel.from_config(config, attn_implementation=decoder.config._attn_implementation)
    network.load_state_dict(decoder.state_dict())
    found: PreTrainedModel = network
    return found


def with_head(
    decoder: PreTrainedModel,
    head: Head,
    pooling: str,
    labels: Sequence[str],
    pad_id: int,
    as_checkpoint: bool = True,
) -> PreTrainedModel:
    """``decoder`` inside of the sequence classification network of its architecture.

    Args:
        decoder: The network without a head.
        head: The head.
        pooling: "last" or "first".
        labels: In the order of the head's outputs.
        pad_id: Id of the padding token.
        as_checkpoint: Whether other software makes the network anew, with a bias only where its class has one.

    Raises:
        ConfigError: See ``merged_network``.
    """
    config = classification_config(decoder.config, labels, pad_id)
    with torch.device("meta"):  # its weights are replaced
        network: Any = AutoModelForSequenceClassification.from_config(config)
    network.config = decoder.config = config
    setattr(network, network.base_model_prefix, decoder)
    if pooling == "last":
        if not isinstance(getattr(network, "score", None), nn.Linear):
            raise _other_head(network, "reads another token than the last")
        if head.bias is not None and network.score.bias is None and as_checkpoint:
            raise ConfigError(
                f"{type(network).__name__} of transformers has a head without a bias, and the calibration has one for "
                "each label. Use format=onnx, or run llm_cls.calibrate method=temperature"
            )
        network.score = _linear(head.weight, head.bias)
    else:
        _place_behind_first(network, decoder, head)
    if left := next((name for name, tensor in network.named_parameters() if tensor.is_meta), None):
        raise _other_head(network, f"has {left}, which was not trained")
    placed: PreTrainedModel = network.eval()
    return placed


def save_network(network: PreTrainedModel, folder: Path) -> None:
    """Writes a checkpoint under the name of architecture that vLLM knows; ``transformers`` goes by ``model_type``."""
    network.save_pretrained(folder)
    path = folder / "config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["architectures"] = [_SERVED_AS.get(name, name) for name in described["architectures"]]
    write_json(path, described)


def classification_config(decoder: PretrainedConfig, labels: Sequence[str], pad_id: int) -> PretrainedConfig:
    """The configuration with what servers read: labels, kind of problem, padding token.

    Raises:
        ConfigError: ``transformers`` has no sequence classification network of this architecture.
    """
    if type(decoder) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ConfigError(
            f"transformers has no sequence classification network for {decoder.model_type} models, so that this run "
            "cannot be exported. Use llm_cls.predict"
        )
    config = deepcopy(decoder)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    config.pad_token_id = pad_id
    config._name_or_path = ""  # a path of this machine
    return config


def _place_behind_first(network: Any, decoder: Any, head: Head) -> None:
    """Sets the head of an encoder so that it is linear in the state of the first token."""
    bias = torch.zeros(len(head.weight)) if head.bias is None else head.bias
    last: Any = getattr(network, "classifier", None)
    if isinstance(last, nn.Linear):  # behind a pooler, as in BERT, LUKE and DeBERTa
        owner = decoder if hasattr(decoder, "pooler") else network
        first = getattr(getattr(owner, "pooler", None), "dense", None)
        activation = getattr(getattr(owner, "pooler", None), "activation", None) or _activation(network.config)
        if not isinstance(first, nn.Linear) or type(activation) not in _SCALES:
            raise _other_head(network, "has no pooler of a layer and tanh or GELU")
        owner.pooler.dense, gain = _identity(first, activation)
        network.classifier = _linear(head.weight / gain, bias)
    elif isinstance(getattr(last, "dense", None), nn.Linear) and isinstance(getattr(last, "out_proj", None), nn.Linear):
        if hasattr(decoder, "pooler"):
            decoder.pooler = None
        activation = getattr(last, "activation", None) or nn.Tanh()
        if type(activation) not in _SCALES:
            raise _other_head(network, "has another activation than tanh or GELU")
        last.dense, gain = _identity(last.dense, activation)
        last.out_proj = _linear(head.weight / gain, bias)
    else:
        raise _other_head(network, "does not read the first token through a layer and an activation")


def _activation(config: PretrainedConfig) -> nn.Module | None:
    return GELUActivation() if getattr(config, "pooler_hidden_act", None) == "gelu" else None


def _identity(layer: nn.Linear, activation: Any) -> tuple[nn.Linear, float]:
    """A layer that scales its input down, and by how much it and the activation together scale."""
    scale, slope = _SCALES[type(activation)]
    square = torch.eye(layer.out_features, layer.in_features) * scale
    return _linear(square, torch.zeros(layer.out_features)), scale * slope


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="cpu", dtype=torch.float32)
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer.requires_grad_(False)


def _other_head(network: nn.Module, what: str) -> ConfigError:
    return ConfigError(
        f"{type(network).__name__} of transformers {what}, so that it cannot compute what this run does. Use "
        "llm_cls.predict"
    )
