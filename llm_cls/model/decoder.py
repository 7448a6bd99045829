"""Loads the pretrained network without its language-model head, because only hidden states are needed."""

import itertools
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from llm_cls.config.messages import nearest
from llm_cls.config.schema import ModelConfig
from llm_cls.errors import ArtifactError, ConfigError
from llm_cls.hub import content_revision, hub_errors, is_local, only_local, source_name

_DECODERS = ["gpt_neox", "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"]


# Names in the files of a model with an image or audio part, in any of the layouts that such files have had, to those
# that the language model alone has.
_NESTED = {r"^(?:model\.)?language_model\.(?:model\.)?": ""}

_INVALID = (TypeError, ValueError, LookupError, ArithmeticError)


def _not_valid(kind: str, error: Exception) -> ConfigError:
    reason = " ".join(line.strip() for line in str(error).splitlines())
    return ConfigError(f"model.architecture is not valid for {kind}: {type(error).__name__}: {reason}")


def load_architecture(config: ModelConfig) -> PretrainedConfig:
    """The ``transformers`` configuration of the model; of one with an image or audio part that of its language model.

    Raises:
        ConfigError: The model is unknown or could not be loaded, or ``model.architecture`` is not valid.
    """
    if config.weights == "random" and config.architecture:
        described = dict(config.architecture)
        kind = described.pop("model_type", None)
        if kind not in CONFIG_MAPPING:
            raise ConfigError(f"model.architecture.model_type: {kind!r} is unknown. {nearest(str(kind), _DECODERS)}")
        try:
            architecture = AutoConfig.for_model(kind, **described)
        except (*_INVALID, StrictDataclassError) as error:
            raise _not_valid(str(kind), error) from None
    else:
        with hub_errors(config.name, "model.name"):
            architecture = AutoConfig.from_pretrained(
                source_name(config.name),
                revision=config.revision,
                local_files_only=only_local(config.name),
                trust_remote_code=config.trust_remote_code,
            )
    if architecture.is_encoder_decoder:
        raise ConfigError(
            f"model.name: {config.name} is an encoder-decoder ({architecture.model_type}). Choose a decoder or encoder"
        )
    architecture = _language_model(architecture)
    architecture.use_cache = False
    return architecture


def _language_model(whole: PretrainedConfig) -> PretrainedConfig:
    text: PretrainedConfig = whole.get_text_config(decoder=True)
    if text is not whole:
        text._commit_hash = getattr(whole, "_commit_hash", None)  # identifies the files, which hold all parts
        own = getattr(text, "eos_token_id", None)  # not every language model has one of its own
        text.eos_token_id = getattr(whole, "eos_token_id", None) if own is None else own
    return text


def load_decoder(
    config: ModelConfig, architecture: PretrainedConfig, dtype: torch.dtype, device: torch.device, seed: int
) -> PreTrainedModel:
    """The network in ``dtype`` on ``device``, in eval mode.

    Args:
        config: Names the model.
        architecture: What ``load_architecture`` returned.
        dtype: Of the weights.
        device: Of the weights.
        seed: Of random weights, where ``model.weights`` is "random".

    Raises:
        ConfigError: The weights could not be loaded, or ``model.architecture`` is not valid.
        ArtifactError: The files lack the weights of some parameter.
    """
    architecture.dtype = dtype
    attention = _attention_implementation(architecture)
    if config.weights == "random":
        with torch.device(device), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)  # a resumed run needs the same network
            try:
                model = AutoModel.from_config(
                    architecture,
                    dtype=dtype,
                    trust_remote_code=config.trust_remote_code,
                    attn_implementation=attention,
                )
            except (*_INVALID, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "negative dimension" not in str(error):
                    raise  # such as too little memory
                raise _not_valid(architecture.model_type, error) from None
    else:
        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # it would list the unused language-model head
        transformers_logging.disable_progress_bar()
        try:
            with hub_errors(config.name, "model.name"):
                model, report = AutoModel.from_pretrained(
                    source_name(config.name),
                    revision=config.revision,
                    local_files_only=only_local(config.name),
                    config=architecture,
                    dtype=dtype,
                    trust_remote_code=config.trust_remote_code,
                    attn_implementation=attention,
                    key_mapping=_NESTED,
                    output_loading_info=True,
                )
        finally:
            transformers_logging.set_verbosity(level)
        _check_complete(config.name, report)
    network: Any = model
    placed: PreTrainedModel = network.to(device).eval()
    return placed


def shared_copy(decoder: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules and the configuration around the same tensors, so that it can get an adapter of its own."""
    tensors = itertools.chain(decoder.parameters(), decoder.buffers())
    return deepcopy(decoder, {id(tensor): tensor for tensor in tensors})


def _attention_implementation(architecture: PretrainedConfig) -> str | None:
    """None: the default of ``transformers``, PyTorch's own attention, which silently leaves out soft caps."""
    return "eager" if getattr(architecture, "attn_logit_softcapping", None) else None


def model_revision(config: ModelConfig, architecture: PretrainedConfig) -> str:
    """What identifies the weights: the hub's commit, a folder's content, or the random architecture."""
    if config.weights == "random":
        return "random"
    if is_local(config.name):
        return content_revision(Path(source_name(config.name)))
    return str(getattr(architecture, "_commit_hash", None) or config.revision or "unknown")


def eos_ids(architecture: PretrainedConfig) -> int | list[int] | None:
    """The EOS id that a model names, or several; None where it names none."""
    found: int | list[int] | None = getattr(architecture, "eos_token_id", None)
    return found


def max_positions(architecture: PretrainedConfig) -> int | None:
    """The longest text in tokens that the architecture accepts; None where it sets no limit."""
    limit = getattr(architecture, "max_position_embeddings", None) or getattr(architecture, "n_positions", None)
    if limit is not None and _counts_from_padding(architecture):
        limit -= (getattr(architecture, "pad_token_id", None) or 0) + 1  # the positions before the first are never used
    return limit


def _counts_from_padding(architecture: PretrainedConfig) -> bool:
    """Whether positions start after the id of the padding token, as in RoBERTa and what was made from it."""
    network: Any = MODEL_MAPPING.get(type(architecture), None)
    if not isinstance(network, type):
        return False
    module = sys.modules[network.__module__]
    parts = [part for part in vars(module).values() if getattr(part, "__module__", None) == module.__name__]
    return any(hasattr(owner, "create_position_ids_from_input_ids") for owner in (module, *parts))


def _check_complete(name: str, report: dict[str, Any]) -> None:
    # A pooler is another head, which is not used here.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    mismatched = sorted(str(key) for key in report["mismatched_keys"])
    if missing or mismatched:
        faulty = (missing + mismatched)[0]
        raise ArtifactError(
            f"{name}: the weights do not fit the architecture: {len(missing)} tensors are missing and "
            f"{len(mismatched)} have another shape, {faulty!r} first. Download the model again, or "
            "check its config.json"
        )
