"""Models of the hub's cache, and what the libraries say of one that cannot be loaded, in one line with the fix."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoConfig
from transformers.dynamic_module_utils import resolve_trust_remote_code

from llm_cls.config.schema import ModelConfig
from llm_cls.data.tokenizer import load_tokenizer
from llm_cls.errors import ConfigError
from llm_cls.hub import SHIPPED, hub_errors
from llm_cls.model.decoder import load_architecture, model_revision

NAMES = ["org/model", "."]  # of the hub, and a folder


def test_a_downloaded_model_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hf download` stores the files that a model has; nothing tells that it has no SentencePiece model."""
    commit = "0123456789" * 4
    repository = tmp_path / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = ModelConfig(name="org/model")
    with pytest.raises(ConfigError, match=r"'org/model' is not in the local cache .* Run `hf download org/model`"):
        load_tokenizer(model)
    shutil.copytree(SHIPPED["ja-mini"], repository / "snapshots" / commit)
    assert model_revision(model, load_architecture(model)) == commit
    assert load_tokenizer(model).fingerprint == load_tokenizer(ModelConfig(name="ja-mini")).fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_code_of_a_model_needs_permission(name: str) -> None:
    expected = rf"^model\.name: '{name}' has code of its own, [^\n]+ Add model\.trust_remote_code=true if you trust it$"
    with pytest.raises(ConfigError, match=expected), hub_errors(name, "model.name"):
        resolve_trust_remote_code(False, name, has_local_code=False, has_remote_code=True)


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_that_transformers_does_not_know(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of_tomorrow"}))
    expected = rf"^model\.name: the installed transformers does not know the architecture of '{name}'\. Install a newer"
    with pytest.raises(ConfigError, match=expected), hub_errors(name, "model.name"):
        AutoConfig.from_pretrained(tmp_path)
