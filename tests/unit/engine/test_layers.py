"""Which decoders the fused layers support, and the seam between the engine and the families."""

import ast
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import Mock, PropertyMock

import peft
import pytest
import torch
from transformers import LlamaModel

import llm_cls.engine
from llm_cls.config.schema import ModelConfig
from llm_cls.engine import layers
from llm_cls.engine.architectures import ARCHITECTURES as FAMILIES
from llm_cls.engine.layers import build_layers, unsupported_reason
from llm_cls.model import classifier
from llm_cls.model.decoder import load_architecture, load_decoder

from .networks import ARCHITECTURES, FUSED, build, fused

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}


def decoder(architecture: str, **changes: Any) -> Any:
    model = ModelConfig(name="tiny", weights="random", architecture=ARCHITECTURES[architecture] | changes)
    return load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)


@pytest.mark.parametrize("architecture", FUSED)
def test_supported(architecture: str) -> None:
    assert unsupported_reason(decoder(architecture), "last") == ""


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        ("phi3", {}, "no fused layers for phi3"),
        ("llama", {"is_causal": False}, "not causal"),
        ("llama", {"attention_dropout": 0.1}, "dropout"),
        ("neox", {"hidden_dropout": 0.1}, "dropout"),
        ("llama", {"hidden_act": "relu"}, "activation is relu"),
        ("neox", {"hidden_act": "relu"}, "activation is relu"),
        ("gemma2", {"use_bidirectional_attention": True}, "not causal"),
        ("gemma3", {"use_bidirectional_attention": True}, "not causal"),
        ("gemma3", {"rope_parameters": {"full_attention": DYNAMIC}}, "type dynamic"),
        ("llama", {"rope_parameters": DYNAMIC}, "type dynamic"),
        ("neox", {"rope_parameters": DYNAMIC}, "type dynamic"),
        ("llama", {"head_dim": 12}, "heads have the size 12"),
        ("llama", {"intermediate_size": 66}, "multiples of 4"),
    ],
)
def test_unsupported(architecture: str, changes: dict[str, Any], reason: str) -> None:
    assert reason in unsupported_reason(decoder(architecture, **changes), "last")


def test_pooling_of_the_first_token_is_unsupported() -> None:
    assert "last token" in unsupported_reason(decoder("llama"), "first")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "other than plain LoRA"),
        ({"lora_bias": True}, "other than plain LoRA"),
        ({"target_modules": ["embed_tokens"]}, "layers of the kind Embedding"),
    ],
)
def test_unsupported_adapters(settings: dict[str, Any], reason: str) -> None:
    network = decoder("llama-biased")
    peft.get_peft_model(network, peft.LoraConfig(**{"target_modules": ["q_proj"]} | settings))
    assert reason in unsupported_reason(network, "last")


def test_code_of_the_hub_under_a_known_name_is_unsupported() -> None:
    class Other(LlamaModel):
        pass

    assert "Other" in unsupported_reason(Other(decoder("llama").config), "last")


def test_a_gpu_machine_without_a_compiler_runs_the_layers_of_transformers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(layers, "unusable_reason", lambda device: "no compiler")
    monkeypatch.setattr(classifier, "unusable_reason", lambda device: "no compiler")
    assert build("fast", "llama").encoder.layers == "packed"
    assert [x.message for x in caplog.records if x.levelname == "WARNING"] == [
        "engine=fast uses the layers of transformers: no compiler"
    ]


def test_a_rank_that_does_not_fit_in_shared_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    lora = pytest.importorskip("llm_cls.engine.triton.lora")
    monkeypatch.setattr(layers, "takes_rank", lora.takes_rank)
    monkeypatch.setattr(lora, "shared_memory", lambda device: 99 * 1024)  # of an RTX 4090
    network = decoder("llama-biased")
    peft.get_peft_model(network, peft.LoraConfig(r=256, target_modules=["q_proj"]))
    assert "shared memory for adapters of rank 256" in unsupported_reason(network, "last")
    assert unsupported_reason(network.bfloat16(), "last") == ""
    stages = [lora.options(torch.empty(r, 640, dtype=torch.bfloat16), 1, None, 4)["num_stages"] for r in (32, 128, 256)]
    assert stages == [4, 2, 1]


@pytest.mark.parametrize("cause", [subprocess.CalledProcessError(1, "gcc"), RuntimeError("Failed to find C compiler.")])
def test_a_missing_compiler_is_a_reason(cause: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("llm_cls.engine.triton.launch")
    monkeypatch.setattr(launch, "driver", Mock())
    assert launch.unusable_reason.__wrapped__() == ""
    type(launch.driver).active = PropertyMock(side_effect=cause)
    assert "gcc and python3-dev" in launch.unusable_reason.__wrapped__()


def test_every_adapter_of_a_network_has_its_own_dropout_stream() -> None:
    adapters = fused(build("fast", "llama", "lora.target_modules=all-linear")).network.adapters
    assert [adapter.stream for adapter in adapters] == list(range(2 * 7))


@pytest.mark.parametrize(
    ("architecture", "max_seqlen", "windows"),
    [
        ("mistral-windowed", 5, [4, 4]),
        ("mistral-windowed", 4, [None, None]),
        ("qwen2-windowed", 64, [None, 5]),
        ("gemma2", 64, [6, None]),
        ("gemma2", 6, [None, None]),
    ],
)
def test_a_window_that_no_text_reaches_is_none(architecture: str, max_seqlen: int, windows: list[int | None]) -> None:
    layers = build_layers(decoder(architecture), max_seqlen).layers
    assert [layer.spec.attention.scores.window for layer in layers] == windows


def test_layers_of_one_type_share_their_angles() -> None:
    first, second = build_layers(decoder("gemma3"), 64).layers
    assert not torch.equal(first.spec.rotary.cos, second.spec.rotary.cos)
    changed = decoder("gemma3", layer_types=["sliding_attention"] * 2)
    first, second = build_layers(changed, 64).layers
    assert first.spec.rotary is second.spec.rotary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_of_norms_and_embeddings_are_rounded_as_in_transformers(dtype: torch.dtype) -> None:
    network = decoder("gemma3", hidden_size=96).to(dtype)
    network.norm.weight.data.fill_(2**-9)  # lost where 1 + weight is rounded to bfloat16
    layers = build_layers(network, 64)
    ids = torch.arange(9)
    assert torch.equal(layers.embedding[ids] * layers.embedding_scale, network.embed_tokens(ids))
    assert layers.final_norm.weight.dtype == torch.float32 and layers.final_norm.weight[0] == 1 + 2**-9


def test_only_the_modules_of_the_families_know_their_names() -> None:
    """No string and no attribute outside ``architectures/`` belongs to one family."""
    folder = Path(llm_cls.engine.__file__).parent
    parts = {"embed_in", "embed_tokens", "q_proj", "query_key_value", "self_attn", "gate_proj", "dense_h_to_4h"}
    for path in sorted(folder.rglob("*.py")):
        if path.parent.name == "architectures":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.value if isinstance(node, ast.Constant) else getattr(node, "attr", None)
            assert name not in parts | FAMILIES.keys(), (path.name, name)
