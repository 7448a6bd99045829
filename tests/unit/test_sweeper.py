"""The grid of every sweep experiment, and the plan that is made of it."""

import pytest
from hydra import compose, initialize_config_dir

from hydra_plugins.llm_cls.sweeper import plan
from llm_cls.errors import ConfigError
from llm_cls.hydra_config import CONF, accept_plain_values

accept_plain_values()


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("lr_template", {"optimizer.lr": 4, "template": 3}),
        ("lr_curve", {"optimizer.lr": 12}),
        ("batch_size", {"data.batch_size": 6, "optimizer.lr": 4}),
        ("lora_rank", {"lora": 5, "optimizer.lr": 12}),
        ("all_models", {"model": 7, "optimizer.lr": 4, "template": 3}),
    ],
)
def test_experiments_are_the_published_grids(name: str, axes: dict[str, int]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("config", overrides=[f"experiment={name}"], return_hydra_config=True)
    assert {key: len(values.split(",")) for key, values in tree.hydra.sweeper.params.items()} == axes


def test_only_what_differs_names_a_run() -> None:
    entries = plan([["a=1", "b=1", "c=x"], ["a=1", "b=2", "c=x"], ["a=1", "b=1", "c=x"]])
    assert [(e.directory, e.overrides, e.swept) for e in entries] == [
        ("b=1", ("a=1", "b=1", "c=x"), ("b=1",)),
        ("b=2", ("a=1", "b=2", "c=x"), ("b=2",)),
    ]
    assert [e.directory for e in plan([["a=1"]])] == ["run"]


def test_what_belongs_to_the_sweep_is_not_swept() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.name can't be swept"):
        plan([["sweep.name=a"], ["sweep.name=b"]])
    with pytest.raises(ConfigError, match="The grid is empty"):
        plan([])
