"""Every causal architecture that transformers can build small: both engines against plain transformers and PEFT."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from llm_cls.config.schema import ModelConfig
from llm_cls.data.tokenizer import load_tokenizer
from llm_cls.errors import ConfigError
from llm_cls.model.artifact import load_artifact, save_artifact
from llm_cls.model.classifier import TextClassifier, build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder
from tests.unit.engine.networks import batch

from .small_configs import decoder_kinds, small_architecture
from .test_model import config, randomize_vectors

LENGTHS = [11, 1, 5, 17]  # longer and shorter than the windows, chunks and selections of the small configurations
N_LABELS = 5
REFUSED = {"reformer": "cannot compute a text: ValueError: If training, make sure that config.axial_pos_shape"}
SINGLE = {"cpmant"}  # in transformers itself, padding changes their states
OFTEN = (
    "deepseek_v3",
    "lfm2",
    "mixtral",
    "phimoe",
    "qwen3_next",
    "doge",
    *SINGLE,
)  # one of each kind; others: tests of the engine
Results = tuple[Tensor, Tensor, dict[str, Tensor]]


def kinds() -> list[Any]:
    built = [kind for kind in decoder_kinds() if kind not in REFUSED]
    return [pytest.param(kind, marks=[] if kind in OFTEN else pytest.mark.slow) for kind in built]


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("kind", kinds())
def test_an_architecture_is_plain_transformers(kind: str, engine: str) -> None:
    layers = check(small_architecture(kind), engine)
    assert layers == "single" if kind in SINGLE else layers in ("fused", "packed", "padded")
    assert layers != "packed" or engine == "fast"


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_refused(kind: str, engine: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[kind]):
        build(small_architecture(kind), engine, "lora.target_modules=all-linear")


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize(("kind", "short"), [("phi3", 8), ("llama", 16)])
def test_the_angles_of_a_text_do_not_depend_on_longer_texts(kind: str, short: int, engine: str) -> None:
    """longrope: texts of up to ``short`` tokens have other angles than longer ones."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 3.0, 9.0, 27.0], "rope_theta": 1e4}
    rope |= {"original_max_position_embeddings": short, "factor": 16.0}
    architecture = small_architecture(kind) | {"rope_parameters": rope, "sliding_window": None}
    if kind == "phi3":
        architecture["original_max_position_embeddings"] = short
    assert check(architecture, engine) == ("packed" if engine == "fast" else "padded")


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_states_that_are_projected_at_the_end(engine: str) -> None:
    """As in OPT-350M, whose states have half of its ``hidden_size``."""
    check(small_architecture("opt") | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}, engine)


def test_an_attention_that_is_not_causal_is_not_packed() -> None:
    """However little the other tokens contribute to a state."""
    assert check(small_architecture("bert") | {"initializer_range": 0.002}, "fast") == "padded"


@pytest.mark.parametrize(
    ("kind", "targets", "advice"),
    [
        ("mamba", "null", r"has no default for this mamba model\. Try lora\.target_modules=\[dt_proj,in_proj,x_proj\]"),
        (
            "mamba",
            "all-linear",
            r"refused by PEFT .* 'out_proj' .* Try lora\.target_modules=\[dt_proj,in_proj,x_proj\]",
        ),
        (
            "mixtral",
            "null",
            r"has no default .* Try lora\.target_modules=all-linear lora\.lora_dropout=0, or some of k_pro",
        ),
        (
            "mixtral",
            "all-linear",
            r"lora_dropout != 0\. Try lora\.target_modules=all-linear lora\.lora_dropout=0, or some",
        ),
        (
            "phimoe",
            "[router2]",
            r"named 'router2'\. Try lora\.target_modules=all-linear, or some of k_proj, o_proj, q_proj",
        ),
    ],
)
def test_the_advice_on_target_modules_works(kind: str, targets: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice) as caught:
        build(small_architecture(kind), "reference", f"lora.target_modules={targets}", "lora.lora_dropout=0.1")
    settings = str(caught.value).partition(" Try ")[2].partition(", or")[0].split()
    build(small_architecture(kind), "reference", *settings)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in decoder_kinds() if kind not in REFUSED])
def test_the_advice_for_an_architecture_works(kind: str) -> None:
    try:
        build(small_architecture(kind), "reference", "lora.target_modules=null", "lora.lora_dropout=0.1")
    except ConfigError as error:
        settings = str(error).partition(" Try ")[2].partition(", or")[0].split()
        build(small_architecture(kind), "reference", "lora.lora_dropout=0.1", *settings)


def test_a_mask_of_the_architectures_own_is_not_packed() -> None:
    """However little it adds to the scores, as in a new Doge."""
    assert check(small_architecture("doge") | {"initializer_range": 0.02}, "fast") == "padded"


def test_adapters_of_experts_are_reloaded(tmp_path: Path) -> None:
    """PEFT adapts the parameters of all experts of a layer at once, under other names than those of layers."""
    architecture = small_architecture("mixtral")
    overrides = ("lora.r=4", "lora.lora_dropout=0", "lora.target_modules=all-linear", "data.max_length=32")
    classifier, _ = build(architecture, "reference", *overrides)
    made = config(*overrides)
    save_artifact(classifier, load_tokenizer(ModelConfig(name="ja-mini")), tuple("abcde"), made, tmp_path / "model")
    model = ModelConfig(name="tiny", weights="random", architecture=architecture)
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    randomize_vectors(decoder)
    loaded = load_artifact(decoder, made, tmp_path / "model")
    some = batch(LENGTHS)
    with torch.no_grad():
        assert torch.equal(loaded(some), classifier.eval()(some))


def check(architecture: dict[str, Any], engine: str) -> str:
    """States, logits and gradients against the peer, which computes each text by itself and without padding.

    Returns:
        How our layers are computed.
    """
    classifier, weights = build_with_adapter(architecture, engine)
    some = batch(LENGTHS)
    ours = results(
        classifier.encoder(some.input_ids, LENGTHS, 0, True), classifier.decoder, classifier.head, some.labels
    )
    plain = plain_peft(classifier, architecture, weights)
    theirs = peer_results(plain, classifier.head, some.input_ids, some.labels)
    if (found := distance(ours, theirs)) > 3e-6:  # as far as the peer itself is exact
        exact = peer_results(plain.double(), classifier.head.double(), some.input_ids, some.labels)
        assert found <= 4 * distance(theirs, exact), (found, distance(theirs, exact))
    return classifier.encoder.layers


def build_with_adapter(architecture: dict[str, Any], engine: str) -> tuple[TextClassifier, dict[str, Tensor]]:
    """Adapters on all linear layers; where PEFT refuses that, on those that the message names."""
    try:
        return build(architecture, engine, "lora.lora_dropout=0", "lora.target_modules=all-linear")
    except ConfigError as error:
        advised = re.search(r"Try lora\.target_modules=(\[[\w,]+\])$", str(error))
        if advised is None:
            raise
        return build(architecture, engine, "lora.lora_dropout=0", f"lora.target_modules={advised[1]}")


def build(architecture: dict[str, Any], engine: str, *overrides: str) -> tuple[TextClassifier, dict[str, Tensor]]:
    """Our classifier, and the weights of its decoder."""
    made = config(f"engine={engine}", "data.max_length=32", "lora.r=4", *overrides)
    model = ModelConfig(name="tiny", weights="random", architecture=architecture)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModel.from_config(load_architecture(model)).parameters())
    assert size < 1_000_000, f"{model.architecture['model_type']} needs an entry in small_configs.py"
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    randomize_vectors(decoder)
    weights = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    classifier = build_classifier(decoder, made, N_LABELS, gradient_checkpointing=False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in classifier.named_parameters():
        if "lora_B" in name:  # as after some training: at the start the adapter is the identity
            parameter.data.normal_(std=0.1, generator=generator)
    return classifier.train(), weights


def plain_peft(classifier: TextClassifier, architecture: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    """The same network and adapters without any code of ours, with attention and experts that are written out."""
    model = ModelConfig(name="tiny", weights="random", architecture=architecture)
    made = deepcopy(load_architecture(model))
    network = AutoModel.from_config(
        made, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    network.load_state_dict(weights)
    adapted = {name: p.data for name, p in classifier.decoder.named_parameters() if ".lora_" in name}
    layers = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in adapted}
    of_parameters = any("experts.base_layer" in layer or layer.endswith("experts") for layer in layers)
    targets = "all-linear" if of_parameters else sorted(layers)
    settings = peft.LoraConfig(r=4, lora_alpha=16, target_modules=targets)
    peer: nn.Module = peft.get_peft_model(network, settings)
    own = {name: p for name, p in peer.named_parameters() if ".lora_" in name}
    assert own.keys() == adapted.keys()
    for name, parameter in own.items():
        parameter.data.copy_(adapted[name])
    return peer.train()


def peer_results(peer: nn.Module, head: nn.Module, input_ids: Tensor, labels: Tensor) -> Results:
    texts = input_ids.split(LENGTHS)
    states = torch.stack([peer(input_ids=text[None]).last_hidden_state[0, -1] for text in texts])
    return results(states, peer, head, labels)


def results(states: Tensor, network: nn.Module, head: nn.Module, labels: Tensor) -> Results:
    """States, logits, and the gradients of the adapters."""
    network.zero_grad()
    logits = head(states)
    F.cross_entropy(logits, labels).backward()
    adapters = {name: p for name, p in network.named_parameters() if ".lora_" in name}
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in adapters.items()}
    return states.detach(), logits.detach(), gradients


def distance(found: Results, expected: Results) -> float:
    """The largest relative distance; a gradient counts as at least a tenth of the largest one.

    In a text of one token the gradient of a query is nothing but rounding.
    """
    largest = max(float(gradient.norm()) for gradient in expected[2].values())
    floor = 0.1 * largest
    pairs = [(found[0], expected[0], 0.0), (found[1], expected[1], 0.0)]
    assert found[2].keys() == expected[2].keys()
    pairs += [(gradient, expected[2][name], floor) for name, gradient in found[2].items()]
    return max(float((a - b).norm() / (b.norm() + least)) for a, b, least in pairs)
