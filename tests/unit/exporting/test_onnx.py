"""Graphs in onnxruntime against the classifiers of the runs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llm_cls.errors import ConfigError
from llm_cls.exporting import onnx
from llm_cls.exporting.network import Head, merged_network
from llm_cls.metrics.calibration import Scaling
from tests.unit.engine.networks import build

from .test_network import ENCODERS, LABELS, PAD, encoder, stronger, texts


@pytest.mark.slow  # half a minute each
@pytest.mark.parametrize("architecture", ["neox", "llama", "qwen3", "gemma3", "gemma2", "gpt2", "bert", "roberta"])
def test_onnxruntime_computes_the_same(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    is_encoder = architecture in ENCODERS
    classifier = stronger(
        encoder(ENCODERS[architecture], "lora=full") if is_encoder else build("fast", architecture)
    ).eval()
    some, rows = texts()
    with torch.no_grad():
        logits = classifier(some).double()
    scaling = Scaling(1.5, (0.3, -0.2, 0.0, 0.1, -0.2))
    expected = (logits / scaling.temperature + torch.tensor(scaling.biases)).softmax(-1).numpy()
    head = Head(classifier.head.weight.detach()).scaled(scaling)
    onnx._write_graph(merged_network(classifier, head, LABELS, PAD, as_checkpoint=False), tmp_path / "model.onnx")
    for batch_size in (1, 5):
        found = onnx._from_ids(tmp_path / "model.onnx", rows, PAD, batch_size)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    onnx._quantize(tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    found = onnx._from_ids(tmp_path / "model.onnx", rows, PAD, 5)
    assert 0 < np.abs(found - expected).max() < 0.2


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^format=onnx needs the package onnx\. Run: pip install 'llm_cls\[onnx\]'$"):
        onnx.write(tmp_path, None)  # type: ignore[arg-type]


def test_an_architecture_that_is_not_supported_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")

    class Odd(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            raise NotImplementedError("not here")

    with pytest.raises(ConfigError, match=r"^PyTorch cannot export this Odd to ONNX: .*\. Use format=merged$") as error:
        onnx._write_graph(Odd(), tmp_path / "model.onnx")
    assert "\n" not in str(error.value)
