"""``format=merged``: a checkpoint with the adapter in its weights, as ``*ForSequenceClassification`` loads it."""

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from llm_cls.exporting.inputs import Exported
from llm_cls.exporting.network import merged_network
from llm_cls.exporting.parity import Comparison, Parity
from llm_cls.exporting.served import from_ids, from_strings, load_network

_TYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def write(folder: Path, exported: Exported) -> Parity:
    """Writes the checkpoint and compares what ``transformers`` computes from it.

    Raises:
        ConfigError: ``transformers`` has no network that computes the same.
    """
    attention = exported.attention
    network: Any = merged_network(exported.classifier, exported.opened.labels, exported.tokenizer.pad_token_id)
    network.to(_TYPES[exported.dtype]).save_pretrained(folder)
    del network
    return exported.parity(*compared(folder, exported, attention))


def compared(
    folder: Path, exported: Exported, attention: str | None
) -> tuple[PretrainedConfig, list[Comparison], list[str]]:
    """The configuration in ``folder``, the comparisons of what it computes, and the packages that did."""
    network: Any = load_network(folder, attention)
    pad_id, size, whole = exported.tokenizer.pad_token_id, exported.batch_size, exported.whole
    ids = from_ids(network, exported.rows, pad_id, size)
    labels = [network.config.id2label[i] for i in range(network.config.num_labels)]
    strings = from_strings(network, exported.tokenizer, exported.strings(folder), labels, size)
    found = exported.compared("transformers", "ids", ids)
    return network.config, found + exported.compared("transformers", "strings", strings, whole), []
