"""Adapters with a head, as PEFT loads them on the pretrained network, against the classifiers of the runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from peft.utils import get_peft_model_state_dict

from llm_cls.config.schema import ModelConfig
from llm_cls.exporting.adapter import save_adapter
from llm_cls.exporting.network import Head, with_head
from llm_cls.exporting.served import from_ids
from llm_cls.model.classifier import build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder
from tests.unit.engine.networks import ARCHITECTURES
from tests.unit.model.test_model import config, randomize_vectors

from .test_network import ENCODERS, LABELS, PAD, texts

ALL = ARCHITECTURES | ENCODERS


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("neox", ["lora.use_rslora=true"]),
        ("llama", ["lora.use_dora=true"]),
        ("qwen3", ["lora.target_modules=[q_proj]"]),
        ("gemma3", ["lora.target_modules='.*layers.1.*proj'"]),
        ("gpt2", ["lora.target_modules=[c_attn]"]),
        ("bert", []),
        ("roberta", []),
        ("luke", []),
    ],
)
def test_peft_computes_the_same(architecture: str, overrides: list[str], tmp_path: Path) -> None:
    pooling = "first" if architecture in ENCODERS else "last"
    made = config("data.max_length=64", "lora.target_modules=all-linear", f"model.pooling={pooling}", *overrides)
    model = ModelConfig(name="tiny", weights="random", architecture=ALL[architecture], pooling=made.model.pooling)
    decoder: Any = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    randomize_vectors(decoder)
    decoder.save_pretrained(tmp_path / "base")
    named = model.model_copy(update={"name": str(tmp_path / "base")})
    made = made.model_copy(update={"model": named})
    classifier = build_classifier(decoder, made, 5, gradient_checkpointing=False).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in classifier.named_parameters():
        if "lora_B" in name or name.startswith("head"):
            parameter.data.normal_(std=0.2, generator=generator)
    some, rows = texts()
    with torch.no_grad():
        expected = classifier(some).double().softmax(-1).numpy()
    state = get_peft_model_state_dict(classifier.decoder)
    weight = classifier.head.weight.detach()
    network = with_head(classifier.release(), Head(weight), pooling, LABELS, PAD)
    save_adapter(tmp_path, network, state, made)
    loaded: Any = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, pad_token_id=PAD, dtype="float32"
    )
    found = from_ids(loaded.eval(), rows, PAD, 5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(expected - expected.mean(axis=0)).max() > 1e-3
