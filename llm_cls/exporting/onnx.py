"""``format=onnx``: a graph with the adapter in its weights, made by PyTorch's exporter and run by onnxruntime."""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm_cls.errors import ConfigError, first_line, lacks_memory
from llm_cls.exporting.inputs import Exported
from llm_cls.exporting.network import merged_network
from llm_cls.exporting.parity import Floats, Parity, versions

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_FILE = "model.onnx"


class _Logits(nn.Module):
    """A sequence classification network with tensors in and out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, shape ``(n, n_labels)``, of ids and mask, shape ``(n, seq_len)``."""
        logits: Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def write(folder: Path, exported: Exported) -> Parity:
    """Writes the graph and its configuration, and compares what onnxruntime computes from it.

    Raises:
        ConfigError: A package is missing, or the architecture cannot be exported.
    """
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"format=onnx needs the package {missing[0]}. Run: pip install 'llm_cls[onnx]'")
    network: Any = merged_network(
        exported.classifier, exported.head, exported.opened.labels, exported.tokenizer.pad_token_id, as_checkpoint=False
    )
    config = network.config
    _write_graph(network, folder / _FILE)
    del network
    config.architectures = None  # there are no weights for it
    config.save_pretrained(folder)
    if exported.dtype == "int8":
        _quantize(folder / _FILE)
    pad_id, size = exported.tokenizer.pad_token_id, exported.batch_size
    sent = exported.strings(folder)
    rows = exported.tokenizer(sent, verbose=False)["input_ids"]
    found = exported.compared("onnxruntime", "ids", _from_ids(folder / _FILE, exported.rows, pad_id, size))
    found += exported.compared("onnxruntime", "strings", _from_ids(folder / _FILE, rows, pad_id, size), sent)
    return exported.parity(config, found, versions(_PACKAGES))


def _write_graph(network: nn.Module, path: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    quiet = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in quiet]
    for logger in quiet:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.inference_mode():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Logits(network),
                (ids, torch.ones_like(ids)),
                dynamo=True,
                dynamic_shapes=(free, free),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                verbose=False,
            )
            assert program is not None  # with dynamo
            size = sum(p.numel() * p.element_size() for p in network.parameters())
            program.save(path, external_data=size > 1 << 30)  # one file has 2 GB at most
    except Exception as error:  # the exporter raises many kinds
        if lacks_memory(error):
            raise
        raise ConfigError(
            f"PyTorch cannot export this {type(network).__name__} to ONNX: {first_line(error)}. Use format=merged"
        ) from None
    finally:
        for logger, level in zip(quiet, levels, strict=True):
            logger.setLevel(level)


def _quantize(path: Path) -> None:
    """Replaces the graph by one with weights of 8 bits; activations are quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_name("float32.onnx")
    for file in path.parent.glob(f"{_FILE}*"):
        if file != path:
            raise ConfigError("dtype=int8 is for models below 1 GB. Use dtype=float32")
    path.replace(whole)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logger.setLevel(level)
        whole.unlink()


def _from_ids(path: Path, rows: Sequence[Sequence[int]], pad_id: int, batch_size: int) -> Floats:
    """The probabilities of token ids, shape ``(n, n_labels)``, in padded batches in their order."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = []
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        longest = max(map(len, batch))
        ids = np.array([[*row, *[pad_id] * (longest - len(row))] for row in batch], np.int64)
        mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in batch], np.int64)
        logits = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0].astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        found.append(odds / odds.sum(axis=1, keepdims=True))
    return np.concatenate(found)
