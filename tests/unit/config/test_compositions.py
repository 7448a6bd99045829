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
LINES = (
    ["seed=1"], ["seed=2"], ["experiment=quickstart", "data=table", "data.text=[a]"], ["~template", "+sweep.a={b:1}"],
)  # fmt: skip


def test_it_is_what_hydra_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again when known, whatever became of it, and with files of the user's own."""
    (tmp_path / "template").mkdir()
    own = tmp_path / "template" / "own.yaml"
    lines = [*LINES, ["template=own", f"hydra.searchpath=[file://{tmp_path}]"]]

    def composed(text: str) -> list[str]:
        own.write_text(f"name: own\ntext: '{text}'\n", encoding="utf-8")
        trees = [compose_tree(line) for line in lines]
        shown = [OmegaConf.to_yaml(tree) for tree in trees]
        for tree in trees:
            tree.lora.r = tree.data.max_length = 7
        return shown

    found = [composed(text) for text in ("{body}", "{title}")]
    monkeypatch.setattr(ConfigRepository, "load_config", compositions.load_config)
    monkeypatch.setattr(config_loader_impl, "create_defaults_list", compositions.create_defaults_list)
    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compositions.merge)
    assert found == [composed(text) for text in ("{body}", "{title}")]
