"""What other software computes from an exported folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, pipeline

from llm_cls.exporting.parity import Floats


def load_network(folder: Path, attention: str | None) -> PreTrainedModel:
    """The network as ``transformers`` loads it, with its stored dtype."""
    network: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype="auto", attn_implementation=attention, local_files_only=True
    )
    loaded: PreTrainedModel = network.eval()
    return loaded


@torch.inference_mode()
def from_ids(network: Any, rows: Sequence[Sequence[int]], pad_id: int, batch_size: int) -> Floats:
    """The probabilities of token ids, in batches in their order: texts of unequal lengths, padded on the right.

    Returns:
        Shape ``(n, n_labels)``.
    """
    found = []
    for first in range(0, len(rows), batch_size):
        batch = [torch.tensor(row) for row in rows[first : first + batch_size]]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=pad_id)
        lengths = torch.tensor([len(row) for row in batch])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        logits = network(input_ids=ids, attention_mask=mask).logits
        found.append(logits.double().softmax(-1).numpy())
    return np.concatenate(found)


def from_strings(network: Any, tokenizer: Any, texts: Sequence[str], labels: Sequence[str], batch_size: int) -> Floats:
    """The probabilities that the pipeline "text-classification" gives for strings, in the order of ``labels``."""
    make: Any = pipeline
    classify = make("text-classification", model=network, tokenizer=tokenizer, top_k=None, device="cpu")
    rows = classify(list(texts), batch_size=batch_size)
    scores = [{entry["label"]: entry["score"] for entry in row} for row in rows]
    return np.array([[row[label] for label in labels] for row in scores], np.float64)
