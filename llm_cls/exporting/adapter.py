"""``format=peft``: the adapter and its head, as ``AutoPeftModelForSequenceClassification`` loads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from llm_cls.config.schema import Config
from llm_cls.errors import ArtifactError, ConfigError, first_line
from llm_cls.exporting.inputs import Exported
from llm_cls.exporting.network import with_head
from llm_cls.exporting.parity import Parity, versions
from llm_cls.exporting.served import from_ids
from llm_cls.hub import only_local, source_name
from llm_cls.runs import layout

_PREFIX = "base_model.model."  # of every tensor in PEFT's files


def write(folder: Path, exported: Exported) -> Parity:
    """Writes the adapter and compares what PEFT computes from it on the pretrained model.

    Raises:
        ConfigError: The run has no adapter, or its pretrained model cannot be named.
        ArtifactError: PEFT does not load it.
    """
    opened = exported.opened
    config = opened.config
    if not config.lora.enabled:
        raise ConfigError("format=peft needs an adapter, and this run was trained without one. Use format=merged")
    if config.model.weights == "random":
        raise ConfigError("format=peft needs a pretrained model, and this run has random weights. Use format=merged")
    attention, head, pooling = exported.attention, exported.head, config.model.pooling
    decoder = exported.classifier.release()
    network: Any = with_head(decoder, head, pooling, opened.labels, exported.tokenizer.pad_token_id)
    state = load_file(opened.path / layout.MODEL / layout.ADAPTER)
    save_adapter(folder, network, state, config)
    wanted = network.config
    del network, decoder
    loaded = _load(folder, exported, attention)
    ids = from_ids(loaded, exported.rows, exported.tokenizer.pad_token_id, exported.batch_size)
    sent = exported.strings(folder)
    rows = exported.tokenizer(sent, verbose=False)["input_ids"]
    strings = from_ids(loaded, rows, exported.tokenizer.pad_token_id, exported.batch_size)
    found = exported.compared("transformers and PEFT", "ids", ids)
    found += exported.compared("transformers and PEFT", "strings", strings, sent)
    return exported.parity(wanted, found, versions(["peft"]))


def save_adapter(folder: Path, network: Any, state: Mapping[str, Tensor], config: Config) -> None:
    """Writes an adapter of task type SEQ_CLS with the head in ``modules_to_save``.

    Args:
        folder: Where the files go.
        network: The pretrained network inside of a sequence classification network with the head of the run.
        state: The tensors of the adapter, as PEFT names them without a head.
        config: Of the run.
    """
    prefix = f"{_PREFIX}{network.base_model_prefix}."
    tensors = {prefix + name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    layers = sorted({name.removeprefix(_PREFIX).partition(".lora_")[0] for name in tensors if ".lora_" in name})
    heads = head_modules(network, config.model.pooling)
    for name in heads:
        for key, tensor in network.get_submodule(name).state_dict().items():
            tensors[f"{_PREFIX}{name}.{key}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / layout.ADAPTER)
    lora, targets = config.lora, target_modules(layers, [name for name, _ in network.named_modules()])
    described = LoraConfig(  # anew: a run that was received may name modules to import in its own
        task_type=TaskType.SEQ_CLS,
        inference_mode=True,
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in network.modules()),
        target_modules=targets,
        modules_to_save=sorted({name.rpartition(".")[2] for name in heads}),
        base_model_name_or_path=config.model.name,
        revision=config.model.revision,
    )
    described.target_modules = targets  # a set by then: sorted, it is the same file for the same run
    described.save_pretrained(str(folder))


def head_modules(network: Any, pooling: str) -> list[str]:
    """The modules of ``network`` that the pretrained model does not have, or has with other weights."""
    base = network.base_model_prefix
    own = [name for name, module in network.named_children() if name != base and list(module.parameters())]
    pooler = getattr(network.get_submodule(base), "pooler", None)
    return own + ([f"{base}.pooler"] if pooling == "first" and isinstance(pooler, nn.Module) else [])


def target_modules(layers: Sequence[str], modules: Sequence[str]) -> list[str]:
    """The shortest names of the layers with an adapter that name no other module.

    >>> target_modules(["m.0.q", "m.1.q"], ["m.0.q", "m.1.q", "m.0.o", "score"])
    ['q']
    >>> target_modules(["m.0.q"], ["m.0.q", "m.1.q"])
    ['m.0.q']
    """
    ends = {layer.rpartition(".")[2] for layer in layers}
    return sorted(ends) if {m for m in modules if m.rpartition(".")[2] in ends} == set(layers) else sorted(layers)


def _load(folder: Path, exported: Exported, attention: str | None) -> Any:
    """The pretrained model with the adapter, as ``AutoPeftModelForSequenceClassification`` makes it."""
    model, labels = exported.opened.config.model, exported.opened.labels
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would list the head, which the adapter has
    try:
        base = AutoModelForSequenceClassification.from_pretrained(
            source_name(model.name),
            revision=model.revision,
            local_files_only=only_local(model.name),
            dtype=torch.float32,
            attn_implementation=attention,
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            pad_token_id=exported.tokenizer.pad_token_id,
        )
        return PeftModel.from_pretrained(base, folder).eval()
    except (ValueError, RuntimeError, OSError, LookupError) as error:
        raise ArtifactError(f"PEFT cannot load the adapter: {first_line(error)}. Use format=merged") from None
    finally:
        transformers_logging.set_verbosity(level)
