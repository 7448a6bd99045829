"""Every choice of ``model``: it is the network that its name says, and its layers are computed as the docs say."""

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig

from llm_cls.config.compose import compose_tree
from llm_cls.config.groups import CONF, choices
from llm_cls.config.schema import Config, parse_config
from llm_cls.data.batches import Batch
from llm_cls.model.classifier import build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder, max_positions

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
# Parameters as published, with the output embedding, and the rounding of the source. Where a page has no total, it is
# the sum of what it has: embeddings and the rest (Qwen3, LLM-jp, Gemma 3), or the size of the file (Sarashina 2.2).
PUBLISHED = {
    "gemma-3-1b": (999_885_952, 0),
    "gemma-3-270m": (268_098_176, 0),
    "gemma-3-4b": (4_300_079_472 - 416_866_032 - 2_950_272, 0),  # without the image encoder and the projector
    "llama-3.1-swallow-8b": (8_030_261_248, 0),
    "llm-jp-3.1-1.8b": (1_459_718_144 + 407_498_752, 4e5),  # the page counts the tokens, not the padded embeddings
    "llm-jp-4-8b": (8_590_200_832, 0),
    "luke-large-lite": (414e6, 1e6),
    "modernbert-ja-30m": (37e6, 5e5),
    "modernbert-ja-70m": (70e6, 5e5),
    "modernbert-ja-130m": (132e6, 5e5),
    "modernbert-ja-310m": (314_611_968, 0),
    "open-calm-1b": (1.4e9, 5e7),
    "open-calm-3b": (2.8e9, 5e7),
    "open-calm-7b": (6.9e9, 5e7),
    "qwen3-0.6b": (0.6e9, 5e7),
    "qwen3-1.7b": (1.7e9, 5e7),
    "qwen3-4b": (4.0e9, 5e7),
    "qwen3-swallow-8b": (8.2e9, 5e7),
    "rinna-3.6b": (3.6e9, 5e7),
    "sarashina2.2-0.5b": (793e6, 5e5),  # two embeddings of 131 M among them
    "sarashina2.2-1b": (1.4e9, 5e7),
    "sarashina2.2-3b": (3.568e9 * 8 / 8.5, 1e7),  # a file of 8.5 bits per weight, its tokenizer included
    "tinyswallow-1.5b": (1.54e9, 5e6),
}
ENCODERS = [name for name in PUBLISHED if name.startswith(("luke", "modernbert"))]
DECODERS = [name for name in PUBLISHED if name not in ENCODERS]
# One of each architecture by default: their networks differ in sizes alone, which are shrunk here.
ARCHITECTURES = ("rinna-3.6b", "llama-3.1-swallow-8b", "qwen3-0.6b", "tinyswallow-1.5b", "gemma-3-270m")
SMALL = ("gemma-3-270m", "qwen3-0.6b", "sarashina2.2-0.5b")


@cache
def preset(name: str, *overrides: str) -> Config:
    return parse_config(compose_tree([f"model={name}", "model.weights=random", "trainer.accelerator=cpu", *overrides]))


def shrunk(config: Config) -> Config:
    """The preset with a small network of its kind: the same windows, angles and sizes of heads; less of the rest."""
    whole: Any = load_architecture(config.model)
    heads, small = 2, {"intermediate_size": 64, "vocab_size": 512, "num_hidden_layers": 6}  # of Gemma 3 one is global
    if "num_key_value_heads" in config.model.architecture:
        heads = 2 * whole.num_attention_heads // whole.num_key_value_heads
        small |= {"num_key_value_heads": 2, "head_dim": _head_size(whole), "hidden_size": 32 * heads}
    else:
        small |= {"hidden_size": heads * _head_size(whole)}
    architecture = config.model.architecture | small | {"num_attention_heads": heads}
    return config.model_copy(update={"model": config.model.model_copy(update={"architecture": architecture})})


def _head_size(whole: Any) -> int:
    size: int = getattr(whole, "head_dim", None) or whole.hidden_size // whole.num_attention_heads
    return size


def on_meta(architecture: PretrainedConfig) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = AutoModel.from_config(architecture)
    return network


def test_all_choices_are_checked() -> None:
    variants = {
        name for name in choices("model") if "  - rinna-3.6b\n" in (CONF / "model" / f"{name}.yaml").read_text()
    }
    assert set(choices("model")) == set(PUBLISHED) | variants | {"hf", "ja-mini"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_has_the_published_size(name: str) -> None:
    architecture: Any = load_architecture(preset(name).model)
    network = on_meta(architecture)
    count = sum(parameter.numel() for parameter in network.parameters())
    if name in DECODERS and not architecture.tie_word_embeddings:  # the output embedding is not loaded
        count += architecture.vocab_size * architecture.hidden_size
    published, rounding = PUBLISHED[name]
    assert abs(count - published) <= rounding
    limit = max_positions(architecture)
    assert limit is not None and limit >= 512
    unknown = [key for key in preset(name).model.architecture if not hasattr(architecture, key)]
    assert set(unknown) <= {"sliding_window_pattern", "global_attn_every_n_layers", "rotary_pct"}, "used, then dropped"
    ids = [architecture.bos_token_id, architecture.eos_token_id, architecture.pad_token_id]
    assert all(i is None or 0 <= i < architecture.vocab_size for i in ids)
    assert architecture.eos_token_id is not None


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ARCHITECTURES else pytest.mark.slow) for name in DECODERS]
)
def test_decoders_are_fused(name: str) -> None:
    config = shrunk(preset(name, "lora.r=4", "lora.lora_dropout=0", "data.max_length=512"))
    short = config.data.model_copy(update={"max_length": 16})  # its check of padded batches takes texts of this length
    engine = config.engine.model_copy(update={"name": "reference"})
    reference = config.model_copy(update={"engine": engine, "data": short})
    ids = torch.randint(4, 500, (9,), generator=torch.Generator().manual_seed(0))
    logits = []
    for made in (config, reference):
        decoder = load_decoder(made.model, load_architecture(made.model), torch.float32, torch.device("cpu"), 1)
        model = build_classifier(decoder, made, 3, gradient_checkpointing=False).eval()
        assert model.encoder.layers == ("padded" if made is reference else "fused")
        with torch.no_grad():
            logits.append(model(Batch(ids, torch.zeros(2, dtype=torch.long), [6, 3], [0, 1])))
    assert (logits[0] - logits[1]).norm() <= 1e-5 * logits[1].norm()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_padded_and_trained_as_a_whole(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config = shrunk(preset(name))
    decoder = load_decoder(config.model, load_architecture(config.model), torch.float32, torch.device("cpu"), 1)
    with caplog.at_level(logging.INFO):
        model = build_classifier(decoder, config, 3, gradient_checkpointing=False)
    assert model.encoder.layers == "padded" and "the whole network is trained" in caplog.text
    assert model.pooling == "first" and config.optimizer.lr == 2e-5
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", DECODERS)
def test_adapters_and_learning_rate(name: str) -> None:
    config = preset(name)
    assert (config.lora.target_modules == "all-linear") == (name in SMALL) and config.optimizer.lr == 5e-4
    assert config.lora.r == (8 if name == "gemma-3-270m" else 32)
    assert config.lora.enabled and config.model.pooling == "last"
    by_hand = preset(name, "lora=r16", "lora.target_modules=[q_proj]", "optimizer.lr=1e-4")
    assert (by_hand.lora.r, by_hand.lora.target_modules, by_hand.optimizer.lr) == (16, ["q_proj"], 1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_docs_name_every_preset(name: str) -> None:
    row = re.search(rf"^\| `{re.escape(name)}` \|.*$", DOCS, re.MULTILINE)
    assert row is not None
    cells = [cell.strip() for cell in row[0].strip("|").split("|")]
    assert cells[1].strip("`") == preset(name).model.name and all(cells)
    assert cells[4] == ("fused" if name in DECODERS else "padded")
