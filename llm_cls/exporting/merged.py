"""``format=merged``: a checkpoint with the adapter in its weights, as ``*ForSequenceClassification`` loads it."""

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from llm_cls.exporting.inputs import Exported
from llm_cls.exporting.network import merged_network, save_network
from llm_cls.exporting.parity import Comparison, Parity
from llm_cls.exporting.served import from_ids, from_strings, from_vllm, load_network

_TYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def write(folder: Path, exported: Exported) -> Parity:
    """Writes the checkpoint and compares what ``transformers`` computes from it.

    Raises:
        ConfigError: ``transformers`` has no network that computes the same.
    """
    attention = exported.attention
    network: Any = merged_network(
        exported.classifier, exported.head, exported.opened.labels, exported.tokenizer.pad_token_id
    )
    save_network(network.to(_TYPES[exported.dtype]), folder)
    del network
    return exported.parity(*compared(folder, exported, attention))


def compared(
    folder: Path, exported: Exported, attention: str | None
) -> tuple[PretrainedConfig, list[Comparison], dict[str, str]]:
    """The configuration in ``folder``, the comparisons of what it computes, and versions of other software."""
    network: Any = load_network(folder, attention)
    config, strings = network.config, exported.strings(folder)
    ids = from_ids(network, exported.rows, exported.tokenizer.pad_token_id, exported.batch_size)
    labels = [config.id2label[i] for i in range(config.num_labels)]
    texts = from_strings(network, exported.tokenizer, strings, labels, exported.batch_size)
    found = exported.compared("transformers", "ids", ids)
    found += exported.compared("transformers", "strings", texts, strings)
    if exported.vllm is None:
        return config, found, {}
    del network
    dtype, length = str(config.dtype).removeprefix("torch."), exported.opened.config.data.max_length
    ids, texts, others = from_vllm(exported.vllm, folder, dtype, length, exported.rows, strings)
    found += exported.compared("vLLM", "ids", ids) + exported.compared("vLLM", "strings", texts, strings)
    return config, found, {f"{name} (of vLLM)": version for name, version in others.items()}
