"""Checkpoints with an image part: only their language model is loaded, and it is that of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedModel

from llm_cls.config.schema import ModelConfig
from llm_cls.data.batches import Batch
from llm_cls.model.classifier import build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder, model_revision

from .test_model import TINY, config, randomize_vectors

VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
IMAGE = {"image_size": 28, "patch_size": 14}
QWEN_VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
GEMMA = {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4, "num_hidden_layers": 6}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
WHOLE: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": TINY | GEMMA, "vision_config": VISION | IMAGE, "mm_tokens_per_image": 4},
    "mistral3": {
        "text_config": {"model_type": "mistral", "num_key_value_heads": 2, **TINY},
        "vision_config": {"model_type": "pixtral", **VISION, **IMAGE},
    },
    "qwen2_5_vl": {
        "text_config": {"num_key_value_heads": 2, "rope_parameters": MROPE, **TINY},
        "vision_config": QWEN_VISION | {"fullatt_block_indexes": [0]},
    },
    "qwen3_vl": {
        "text_config": {"num_key_value_heads": 2, "head_dim": 8, "rope_parameters": MROPE, **TINY},
        "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0]},
    },
}
IDS = torch.randint(4, 90, (2, 11), generator=torch.Generator().manual_seed(0))


def saved(kind: str, folder: Path) -> Tensor:
    """Writes a random network to ``folder``; gives its logits of a text without images."""
    architecture = CONFIG_MAPPING[kind](**WHOLE[kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole: PreTrainedModel = AutoModelForImageTextToText.from_config(architecture, dtype=torch.float32).eval()
    randomize_vectors(whole)
    whole.save_pretrained(folder)
    with torch.no_grad():
        logits: Tensor = whole(input_ids=IDS).logits
    return logits


def loaded(folder: Path) -> tuple[ModelConfig, PreTrainedModel]:
    model = ModelConfig(name=str(folder))
    return model, load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 0)


def output_embedding(folder: Path, network: Any) -> Tensor:
    tensors = load_file(folder / "model.safetensors")
    heads = [tensor for name, tensor in tensors.items() if name.endswith("lm_head.weight")]
    weight: Tensor = heads[0] if heads else network.embed_tokens.weight
    return weight


@pytest.mark.parametrize("kind", WHOLE)
def test_the_language_model_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    expected = saved(kind, tmp_path)
    model, network = loaded(tmp_path)
    names = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert names == {"embed_tokens", "layers", "norm"}, "nothing of the image part"
    with torch.no_grad():
        hidden = network(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(hidden @ output_embedding(tmp_path, network).T, expected, rtol=1e-5, atol=1e-5)
    assert model_revision(model, network.config).startswith("sha256:")


@pytest.mark.parametrize("kind", WHOLE)
def test_it_is_trained_with_fused_layers(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    results = []
    for engine in ("fast", "reference"):
        model, network = loaded(tmp_path)
        made = config(f"engine={engine}", "lora.target_modules=all-linear", "lora.r=4", "data.max_length=64")
        classifier = build_classifier(network, made.model_copy(update={"model": model}), 3, False).eval()
        assert classifier.encoder.layers == ("fused" if engine == "fast" else "padded")
        results.append(classifier(Batch(IDS.flatten(), torch.zeros(2, dtype=torch.long), [18, 4], [0, 1])))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "language_model."])
def test_every_layout_of_the_files_is_read(prefix: str, tmp_path: Path) -> None:
    """The names differ between versions of transformers; the models on the hub have the names of their time."""
    saved("gemma3", tmp_path)
    _, expected = loaded(tmp_path)
    tensors, own = load_file(tmp_path / "model.safetensors"), expected.state_dict()
    renamed = {}
    for name, tensor in tensors.items():
        ends = (key for key in own if name.endswith((f"language_model.{key}", f".model.{key}")))
        short = next(ends, None)
        renamed[prefix + short if short else name] = tensor
    assert sum(name.startswith(prefix) for name in renamed) == len(own)
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    _, network = loaded(tmp_path)
    assert all(torch.equal(tensor, own[name]) for name, tensor in network.state_dict().items())


def test_end_of_text_of_the_whole_model() -> None:
    whole = {"model_type": "gemma3", "eos_token_id": 7, "text_config": TINY | GEMMA | {"eos_token_id": None}}
    architecture = load_architecture(ModelConfig(name="tiny", weights="random", architecture=whole))
    assert (architecture.model_type, architecture.eos_token_id, architecture.use_cache) == ("gemma3_text", 7, False)
