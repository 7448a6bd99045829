"""Adapter, pooling and head against their definitions."""

import itertools
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from transformers import AutoModel

from llm_cls.config.groups import CONF
from llm_cls.config.schema import Config, ModelConfig, parse_config
from llm_cls.data.batches import Batch
from llm_cls.errors import ArtifactError, ConfigError
from llm_cls.hub import source_name
from llm_cls.model.artifact import read_labels
from llm_cls.model.classifier import TextClassifier, build_classifier
from llm_cls.model.decoder import eos_ids, load_architecture, load_decoder, max_positions
from llm_cls.model.pooling import pad, pool
from llm_cls.runs.layout import LABELS

CPU = torch.device("cpu")


@cache
def config(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_config(compose("config", overrides=["model=ja-mini", *overrides]))


def classifier(*overrides: str, checkpointing: bool = False) -> TextClassifier:
    made = config(*overrides)
    decoder = load_decoder(made.model, load_architecture(made.model), torch.float32, CPU, made.seed)
    return build_classifier(decoder, made, 9, checkpointing)


def batch(lengths: list[int], seed: int = 0) -> Batch:
    ids = torch.randint(4, 12000, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    return Batch(ids, torch.arange(len(lengths)) % 9, lengths, list(range(len(lengths))))


def randomize_vectors(decoder: torch.nn.Module) -> None:
    """Draws biases and norm weights: random networks have zeros and ones, which hide a missing one."""
    generator = torch.Generator().manual_seed(4)
    for parameter in decoder.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)


def test_pad_and_pool() -> None:
    ids, mask = pad(torch.tensor([5, 6, 7]), [2, 1])
    assert ids.tolist() == [[5, 6], [7, 0]] and mask.tolist() == [[1, 1], [1, 0]]
    hidden = torch.arange(2 * 3 * 2.0).reshape(2, 3, 2)
    assert pool(hidden, [2, 3], "last").tolist() == [[2, 3], [10, 11]]
    assert pool(hidden, [2, 3], "first").tolist() == [[0, 1], [6, 7]]


@pytest.mark.parametrize(
    "overrides", [[], ["lora.use_dora=true"], ["lora.use_rslora=true"], ["lora.target_modules=all-linear"]]
)
def test_adapter_is_the_identity_at_the_start(overrides: list[str]) -> None:
    model = classifier(*overrides).eval()
    plain = AutoModel.from_pretrained(source_name("ja-mini"), dtype=torch.float32).eval()
    some = batch([7, 1, 12])
    ids, mask = pad(some.input_ids, some.lengths)
    with torch.no_grad():
        hidden = pool(plain(input_ids=ids, attention_mask=mask).last_hidden_state, some.lengths, "last")
        torch.testing.assert_close(model(some), hidden @ model.head.weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_adapter_and_head_get_gradients(checkpointing: bool) -> None:
    model = classifier(checkpointing=checkpointing).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.nn.functional.cross_entropy(model(batch([7, 3])), torch.tensor([0, 1])).backward()
    for name, parameter in model.named_parameters():
        trained = "lora_" in name or name == "head.weight"
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None) == trained, name
    with_gradient = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("layers.0." in n and "lora_B" in n for n in with_gradient), "the first layer is reached"
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("lora_B" in n or "lora_A" in n or n == "head.weight" for n in changed)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = classifier("lora.lora_dropout=0.3", checkpointing=checkpointing).train()
        torch.manual_seed(0)
        torch.nn.functional.cross_entropy(model(batch([7, 3])), torch.tensor([0, 1])).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_logits_do_not_depend_on_companions() -> None:
    model = classifier().eval()
    lengths = [40, 3, 17, 1]
    together = batch(lengths)
    offsets = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    with torch.no_grad():
        logits = model(together)
        for i, (a, b) in enumerate(itertools.pairwise(offsets)):
            alone = Batch(together.input_ids[a:b], together.labels[i : i + 1], [b - a], [i])
            torch.testing.assert_close(model(alone)[0], logits[i], rtol=1e-5, atol=1e-5)


def test_default_target_modules_are_pefts() -> None:
    model = classifier("lora.r=4", "lora.target_modules=null")
    adapted = {n.split(".lora_A")[0].rpartition(".")[2] for n, _ in model.named_parameters() if "lora_A" in n}
    assert adapted == {"query_key_value"}


def test_same_seed_same_weights() -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in classifier(f"seed={seed}").trainable_state().items()}

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_unknown_target_modules() -> None:
    for modules in ("q_proj", "[q_proj]", "[dense,q_proj]"):
        with pytest.raises(ConfigError, match=r"lora\.target_modules.*q_proj.*all-linear.*query_key_value"):
            classifier(f"lora.target_modules={modules}")


@pytest.mark.parametrize(
    ("overrides", "trained"),
    [(["lora=none"], 9 * 256), (["lora=full"], 9 * 256 + 7_811_072)],
)
def test_head_alone_or_everything(overrides: list[str], trained: int) -> None:
    assert classifier(*overrides).count_parameters()[1] == trained


def tiny(**keys: Any) -> ModelConfig:
    return ModelConfig(name="tiny", weights="random", architecture=keys)


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}


@pytest.mark.parametrize(
    "kind",
    [
        *("roberta", "xlm-roberta-xl", "data2vec-text", "roberta-prelayernorm", "camembert", "luke", "mpnet", "ibert"),
        *("bert", "opt", "gpt2", "electra"),
    ],
)
def test_the_longest_text_is_the_longest_that_works(kind: str) -> None:
    """Some architectures never use their first positions, which ``max_position_embeddings`` counts."""
    luke = {"entity_vocab_size": 4, "entity_emb_size": 8} if kind == "luke" else {}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    made = tiny(model_type=kind, max_position_embeddings=20, pad_token_id=1, **sizes, **luke)
    architecture = load_architecture(made)
    decoder = load_decoder(made, architecture, torch.float32, CPU, 0)
    longest = max_positions(architecture)
    assert longest is not None
    decoder(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        decoder(input_ids=torch.full((1, longest + 1), 5))


def test_not_every_architecture_names_an_eos() -> None:
    assert eos_ids(load_architecture(tiny(model_type="gpt_neox", eos_token_id=[5, 6]))) == [5, 6]
    assert eos_ids(load_architecture(tiny(model_type="cpmant"))) is None


@pytest.mark.parametrize(
    ("method", "package"), [("bitsandbytes", "bitsandbytes"), ("gptq", "optimum"), ("awq", "gptqmodel")]
)
def test_a_quantized_checkpoint_names_the_missing_package(tmp_path: Path, method: str, package: str) -> None:
    folder = shutil.copytree(source_name("ja-mini"), tmp_path / "model")
    described = json.loads((folder / "config.json").read_text())
    quantized = {"quant_method": method, "bits": 4} | ({"load_in_4bit": True} if method == "bitsandbytes" else {})
    (folder / "config.json").write_text(json.dumps(described | {"quantization_config": quantized}))
    model = ModelConfig(name=str(folder))
    with pytest.raises(ConfigError, match=rf"needs a package that is missing: .*{package}.*\. Install it, or choose"):
        load_decoder(model, load_architecture(model), torch.float32, CPU, 0)


@pytest.mark.parametrize("kept", [0, 100, 20_000, 60_000, None])
def test_a_damaged_bin_file_is_one_line(tmp_path: Path, kept: int | None) -> None:
    made = tiny(model_type="gpt_neox", **TINY)
    decoder = load_decoder(made, load_architecture(made), torch.float32, CPU, 5)
    decoder.config.save_pretrained(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save(decoder.state_dict(), path)
    model = ModelConfig(name=str(tmp_path))
    load_decoder(model, load_architecture(model), torch.float32, CPU, 0)
    path.write_bytes(b"x" * 1000 if kept is None else path.read_bytes()[:kept])
    with pytest.raises(
        ArtifactError, match=r"^model\.name: the weights of '.*' are damaged: a \.bin file is .* again$"
    ):
        load_decoder(model, load_architecture(model), torch.float32, CPU, 0)


@pytest.mark.parametrize("softcap", [0.5, None])
def test_soft_caps_are_not_left_out(softcap: float | None) -> None:
    """PyTorch's own attention has none, and transformers would not say so."""
    made = tiny(model_type="gemma2", num_key_value_heads=2, attn_logit_softcapping=softcap, **TINY)
    decoder = load_decoder(made, load_architecture(made), torch.float32, CPU, 5)
    assert decoder.config._attn_implementation == ("sdpa" if softcap is None else "eager")


@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [
        ({"model_type": "gpt_neox", **TINY}, "last"),
        ({"model_type": "llama", "num_key_value_heads": 2, **TINY}, "last"),
        ({"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99}, "last"),
        ({"model_type": "luke", "entity_vocab_size": 4, "entity_emb_size": 8, **TINY}, "first"),
    ],
)
def test_other_architectures(architecture: dict[str, Any], pooling: str) -> None:
    made = config("lora.target_modules=all-linear", "data.max_length=64").model_copy(
        update={"model": ModelConfig(name="tiny", weights="random", architecture=architecture, pooling=pooling)}
    )
    decoder = load_decoder(made.model, load_architecture(made.model), torch.float32, CPU, 0)
    model = build_classifier(decoder, made, 3, gradient_checkpointing=False).eval()
    ids = torch.randint(4, 99, (9,))
    logits = model(Batch(ids, torch.zeros(2, dtype=torch.long), [6, 3], [0, 1]))
    assert logits.shape == (2, 3) and logits.dtype == torch.float32 and torch.isfinite(logits).all()
    assert isinstance(model.decoder, peft.PeftModel)


def test_random_weights_repeat() -> None:
    made = tiny(model_type="gpt_neox", **TINY)
    first, again = (load_decoder(made, load_architecture(made), torch.float32, CPU, 5) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "is missing"),
        ("[" + "9" * 5000 + "]", "is damaged: Invalid JSON: number out of range"),
        ('{"a": 1}', "is damaged: must be a valid array, got"),
        ("[1]", "is damaged: 0 must be a valid string, got 1"),
    ],
)
def test_damaged_labels_are_one_line(tmp_path: Path, content: str | None, part: str) -> None:
    if content is not None:
        (tmp_path / LABELS).write_text(content)
    with pytest.raises(ArtifactError) as caught:
        read_labels(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / LABELS} {part}") and "\n" not in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("num_attention_heads=0", "ZeroDivisionError: integer modulo by zero"),
        ("hidden_act=zz", "KeyError: 'zz'"),
        ("intermediate_size=-4", "RuntimeError: Trying to create tensor with negative dimension -4"),
        ("layer_norm_eps=x", "expected float, got str"),
    ],
)
def test_an_impossible_architecture_is_one_line(override: str, part: str) -> None:
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    overrides = [f"model.architecture.{key}={value}" for key, value in shape.items()]
    model = config("model=open-calm-1b", "model.weights=random", *overrides, f"++model.architecture.{override}").model
    with pytest.raises(ConfigError) as caught:
        load_decoder(model, load_architecture(model), torch.float32, CPU, seed=0)
    assert str(caught.value).startswith("model.architecture is not valid for gpt_neox: ")
    assert part in str(caught.value) and "\n" not in str(caught.value)
