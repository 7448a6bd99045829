"""What the tests compose is what Hydra composes."""

from pathlib import Path

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from omegaconf import OmegaConf

from llm_cls.config.compose import accept_plain_values, compose_tree
from tests import compositions

accept_plain_values()
LINES = (["seed=1"], ["seed=2", "experiment=quickstart", "data=table", "data.text=[a]"], ["~template"])


def shown(*line: str) -> str:
    """What is composed, which the caller of a composition may change."""
    tree = compose_tree(line)
    text = OmegaConf.to_yaml(tree)
    tree.lora.r = tree.data.max_length = 7
    return text


def test_it_is_what_hydra_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again when known, and with a file of the user's own that changes."""

    def with_own(text: str) -> str:
        (tmp_path / "template").mkdir(exist_ok=True)
        (tmp_path / "template" / "own.yaml").write_text(f"name: own\ntext: '{text}'\n", encoding="utf-8")
        return shown("template=own", f"hydra.searchpath=[file://{tmp_path}]")

    found = [*(shown(*line) for line in LINES * 2), with_own("{body}"), with_own("{title}")]
    monkeypatch.setattr(ConfigRepository, "load_config", compositions.load_config)
    monkeypatch.setattr(config_loader_impl, "create_defaults_list", compositions.create_defaults_list)
    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compositions.merge)
    assert found == [*[shown(*line) for line in LINES] * 2, with_own("{body}"), with_own("{title}")]
