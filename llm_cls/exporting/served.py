"""What other software computes from an exported folder."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, pipeline

from llm_cls.errors import ConfigError
from llm_cls.exporting import vllm_check
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


def vllm_python(given: Path | None) -> Path | None:
    """The interpreter of the environment that has vLLM; None where there is none."""
    return given or (Path(sys.executable) if importlib.util.find_spec("vllm") else None)


def from_vllm(
    python: Path, folder: Path, dtype: str, max_length: int, rows: Sequence[Sequence[int]], strings: Sequence[str]
) -> tuple[Floats, Floats, dict[str, str]]:
    """The probabilities that vLLM gives for ids and for strings, and the versions of its environment.

    Raises:
        ConfigError: vLLM has failed.
    """
    asked = {"dtype": dtype, "max_length": max_length, "ids": [list(row) for row in rows], "strings": list(strings)}
    with tempfile.TemporaryDirectory() as place:
        texts, answers = Path(place, "texts.json"), Path(place, "answers.json")
        texts.write_text(json.dumps(asked), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        try:
            done = subprocess.run(
                [python, vllm_check.__file__, folder, texts, answers],
                env={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"} | kept,
                capture_output=True,
                text=True,
            )
        except OSError as error:
            raise ConfigError(f"vllm={python} could not be started: {error.strerror}. Give its Python") from None
        if done.returncode or not answers.is_file():
            lines = [line for line in done.stderr.splitlines() if "Error" in line]
            cause = lines[-1].strip() if lines else f"exit code {done.returncode}"
            raise ConfigError(f"vLLM cannot serve this model: {cause}. Leave out vllm={python}")
        found = json.loads(answers.read_text(encoding="utf-8"))
    return np.array(found["ids"]), np.array(found["strings"]), found["versions"]
