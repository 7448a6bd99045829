"""Merged networks as ``transformers`` loads them, against the classifiers of the runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm_cls.config.schema import ModelConfig
from llm_cls.errors import ConfigError
from llm_cls.exporting.network import Head, merged_network, save_network, with_head
from llm_cls.exporting.served import from_ids, load_network
from llm_cls.metrics.calibration import Scaling
from llm_cls.model.classifier import TextClassifier, build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder
from tests.unit.engine.networks import batch, build
from tests.unit.model.test_model import config, randomize_vectors

LABELS = ("b", "a", "d", "c", "e")  # not sorted
PAD = 98  # occurs in no text
DECODERS = (
    *("neox", "neox-parallel", "llama", "llama-biased", "qwen2-windowed", "mistral", "qwen3", "gemma", "gemma2"),
    *("gemma3", "gemma3-local-last", "phi3", "gpt2", "qwen2-vl", "qwen3-vl"),
)
VARIANTS = (
    *("neox-linear-rope", "llama-yarn", "llama-odd-heads", "qwen2", "mistral-windowed", "mistral-wide-window"),
    *("qwen3-windowed", "gemma2-uncapped", "phi3-windowed"),
)
LENGTHS = [3, 17, 64, 1, 30]
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}
SPECIAL = dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), 2)
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **WIDE},
    "roberta": {"model_type": "roberta", "max_position_embeddings": 199, "pad_token_id": PAD, **WIDE},
    "xlm-roberta": {"model_type": "xlm-roberta", "max_position_embeddings": 199, "pad_token_id": PAD, **WIDE},
    "luke": {"model_type": "luke", "entity_vocab_size": 9, "entity_emb_size": 8, "pad_token_id": PAD, **WIDE}
    | {"use_entity_aware_attention": False, "max_position_embeddings": 199},
    "deberta-v2": {"model_type": "deberta-v2", "pooler_hidden_size": 32, **WIDE},
    "electra": {"model_type": "electra", "embedding_size": 32, **WIDE},
}


def texts() -> tuple[Any, list[list[int]]]:
    """A batch without the padding token, and its rows."""
    some = batch(LENGTHS)
    some.input_ids.clamp_(max=PAD - 1)
    return some, [row.tolist() for row in some.input_ids.split(LENGTHS)]


def merged(classifier: TextClassifier, labels: tuple[str, ...] = LABELS, scaling: Scaling | None = None) -> Any:
    return merged_network(classifier, Head(classifier.head.weight.detach()).scaled(scaling), labels, PAD)


def check(
    classifier: TextClassifier,
    folder: Path,
    limit: float,
    dtype: torch.dtype = torch.float32,
    scaling: Scaling | None = None,
    labels: tuple[str, ...] = LABELS,
) -> Any:
    some, rows = texts()
    classifier.eval()
    with torch.no_grad():
        logits = classifier(some).double()
        if scaling is not None:
            logits = logits / scaling.temperature + torch.tensor(scaling.biases)
        expected = logits.softmax(-1).numpy()
    attention = classifier.decoder.config._attn_implementation  # type: ignore[union-attr]
    network: Any = merged(classifier, labels, scaling)
    save_network(network.to(dtype), folder)
    loaded: Any = load_network(folder, "eager" if attention == "eager" else None)
    assert loaded.dtype == dtype and type(loaded).__name__.endswith("ForSequenceClassification")
    for batch_size in (1, 5):
        found = from_ids(loaded, rows, PAD, batch_size)
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)
    assert np.abs(expected - expected.mean(axis=0)).max() > 1e-3  # texts differ
    return loaded


@pytest.mark.parametrize(
    "architecture", [*DECODERS, *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS)]
)
def test_a_merged_network_computes_the_same(architecture: str, tmp_path: Path) -> None:
    loaded = check(stronger(build("fast", architecture)), tmp_path, 1e-5)
    assert loaded.config.id2label == dict(enumerate(LABELS)) and loaded.config.label2id["b"] == 0
    assert loaded.config.problem_type == "single_label_classification" and loaded.config.pad_token_id == PAD


@pytest.mark.parametrize("overrides", [["lora.use_dora=true"], ["lora.use_rslora=true"], ["lora=full"], ["lora=none"]])
def test_every_way_of_training_can_be_merged(overrides: list[str], tmp_path: Path) -> None:
    check(stronger(build("fast", "llama", *overrides)), tmp_path, 1e-5)


def test_weights_in_bf16_differ_by_their_rounding(tmp_path: Path) -> None:
    check(stronger(build("fast", "llama")), tmp_path, 0.03, torch.bfloat16)


@pytest.mark.parametrize("architecture", sorted(ENCODERS))
@pytest.mark.parametrize("trained", ["lora=full", "lora.target_modules=all-linear"])
def test_an_encoder_computes_the_same_through_its_own_head(architecture: str, trained: str, tmp_path: Path) -> None:
    check(stronger(encoder(ENCODERS[architecture], trained)), tmp_path, 1e-5)


def test_a_calibration_is_in_the_head(tmp_path: Path) -> None:
    """A temperature in that of any network; a bias for each label in that of encoders."""
    temperature = Scaling(0.4, (0.0,) * 5)
    check(stronger(build("fast", "llama")), tmp_path / "decoder", 1e-5, scaling=temperature)
    biases = Scaling(2.5, (1.0, -0.5, 0.0, -0.75, 0.25))
    for name in ("bert", "roberta"):
        check(stronger(encoder(ENCODERS[name], "lora=full")), tmp_path / name, 1e-5, scaling=biases)
    with pytest.raises(ConfigError, match=r"^LlamaForSequenceClassification .* without a bias.* method=temperature$"):
        merged(build("fast", "llama"), scaling=biases)


def test_a_head_that_computes_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^ModernBertForSequenceClassification of transformers .* llm_cls.predict$"):
        merged(encoder({"model_type": "modernbert", **WIDE, **SPECIAL}, "lora=full"))
    with pytest.raises(ConfigError, match=r"^LlamaForSequenceClassification of transformers does not read the first"):
        classifier = build("reference", "llama")
        classifier.pooling = "first"
        merged(classifier)
    with pytest.raises(ConfigError, match=r"^transformers has no sequence classification network for qwen3_vl_text"):
        decoder: Any = build("fast", "qwen3-vl").release()
        with_head(decoder, Head(torch.zeros(5, 32)), "last", LABELS, PAD)
    with pytest.raises(ConfigError, match=r"^BertForSequenceClassification of transformers reads another token"):
        merged(encoder(ENCODERS["bert"], "lora=full", "model.pooling=last"))


@pytest.mark.parametrize("n", [2, 3, 150])
def test_labels_keep_their_order(n: int, tmp_path: Path) -> None:
    classifier = build("fast", "qwen3")
    classifier.head = torch.nn.Linear(classifier.head.in_features, n, bias=False)
    labels = tuple(f"label {i * 37 % n}" for i in range(n))
    loaded = check(stronger(classifier), tmp_path, 1e-5, labels=labels)
    assert [loaded.config.id2label[i] for i in range(n)] == list(labels) and loaded.config.num_labels == n
    assert [loaded.config.label2id[label] for label in labels] == list(range(n))


def encoder(architecture: dict[str, Any], *overrides: str) -> TextClassifier:
    made = config("engine=reference", "data.max_length=64", "model.pooling=first", *overrides)
    model = ModelConfig(name="tiny", weights="random", architecture=architecture, pooling=made.model.pooling)
    made = made.model_copy(update={"model": model})
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    randomize_vectors(decoder)
    return build_classifier(decoder, made, 5, gradient_checkpointing=False)


def stronger(classifier: TextClassifier) -> TextClassifier:
    """With a head that tells texts apart."""
    classifier.head.weight.data.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    return classifier
