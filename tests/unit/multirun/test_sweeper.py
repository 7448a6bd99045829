"""The grid of every sweep experiment, and the plan that is made of it."""

import re
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from llm_cls.config.compose import accept_plain_values
from llm_cls.config.groups import CONF
from llm_cls.errors import ConfigError, ResourceError
from llm_cls.multirun import sweeper
from llm_cls.multirun.grid import check_values, latest, own_grid, plan, spread
from llm_cls.multirun.ray_launcher import RayLauncher, _gpus
from llm_cls.multirun.sweeper import GridSweeper
from llm_cls.redaction import redact
from llm_cls.runs import lock
from llm_cls.runs.sweep import Entry, read_plan, write_plan
from tests.unit.runs.conftest import held

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


def test_only_varied_keys_name_a_run() -> None:
    entries = plan([["a=1", "b=1", "c=x"], ["a=1", "b=2", "c=x"], ["a=1", "b=1", "c=x"]])
    assert [(e.directory, e.overrides, e.swept) for e in entries] == [
        ("b=1", ["a=1", "b=1", "c=x"], ["b=1"]),
        ("b=2", ["a=1", "b=2", "c=x"], ["b=2"]),
    ]
    assert [e.directory for e in plan([["a=1"]])] == ["run"]


def test_the_last_override_of_a_key_counts_with_any_prefix() -> None:
    given = ["lr=1,2", "~lora", "template=1", "++lr=3", "+template@other=2"]
    found = latest(OverridesParser.create().parse_overrides(given))
    assert [override.input_line for override in found] == ["++lr=3", "~lora", "template=1", "+template@other=2"]


def test_sweep_keys_cannot_be_swept() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.name cannot be swept"):
        plan([["sweep.name=a"], ["sweep.name=b"]])
    with pytest.raises(ConfigError, match="The grid is empty"):
        plan([])


def test_an_interval_is_refused_as_a_grid_axis(tmp_path: Path) -> None:
    sweeper = GridSweeper()
    sweeper._loader, sweeper._config = Mock(), OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "s")}}})
    with pytest.raises(ConfigError) as caught:
        sweeper.sweep(["seed=1,2", "optimizer.lr=interval(1e-4,1e-3)", "+lora.r=interval(1,2)"])
    first, second = str(caught.value).splitlines()
    assert first.startswith("optimizer.lr=interval(1e-4,1e-3) lists no values") and "optimizer.lr=range(" in first
    assert second.startswith("+lora.r=interval(1,2) ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("axes", "line"),
    [
        (["seed=range(0,inf)"], "seed=range(0,inf) must have a finite start and stop, and a step other than 0."),
        (["seed=range(0,1e400)"], "seed=range(0,1e400) must have a finite"),
        (["seed=range(0.5,1,nan)"], "seed=range(0.5,1,nan) must have a finite"),
        (["seed=range(0,1,0)"], "seed=range(0,1,0) must have a finite"),
        (["seed=range(0,1000000000000)"], "The grid has more than 10000 runs"),
        (["seed=range(0,1,1e-300)"], "The grid has more than 10000 runs"),
        (["seed=range(101)", "lora.r=range(10,0,-1)", "template=0,1,2,3,4,5,6,7,8,9"], "The grid has more than 10000"),
    ],
)
def test_a_grid_without_end_is_refused(axes: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}"):
        check_values(OverridesParser.create().parse_overrides(axes))


def test_a_large_grid_is_accepted() -> None:
    axes = ["seed=range(1,101)", "lora.r=range(10,0,-1)", "template=0,1,2", "model=glob(*)", "optimizer.lr=1e-4"]
    check_values(OverridesParser.create().parse_overrides(axes))


def test_the_grid_of_an_experiment_is_a_mapping() -> None:
    assert own_grid({"seed": "1,2"}) == ["seed=1,2"]
    with pytest.raises(ConfigError, match=r"^hydra.sweeper.params must be keys with values, got 1"):
        own_grid(1)


def test_a_launcher_without_ray_is_refused_before_anything_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray\. Install it"):
        RayLauncher({}, {}).setup(hydra_context=Mock(), task_function=Mock(), config=OmegaConf.create())


def test_every_beginning_of_a_spread_covers_the_grid() -> None:
    for n in (1, 2, 3, 12, 24, 100):
        order = spread(n)
        assert sorted(order) == list(range(n))
        for k in range(2, n + 1):
            seen = sorted(order[:k])
            gaps = [b - a for a, b in zip([-1, *seen], [*seen, n], strict=True)]
            assert max(gaps) <= 4 * n / k, f"the first {k} of {n} leave a gap"


@pytest.mark.parametrize(
    ("given", "trainer", "found", "gpus"),
    [
        ("auto", {"accelerator": "auto", "devices": 1}, 0, 0),
        ("auto", {"accelerator": "cpu", "devices": 2}, 8, 0),
        ("auto", {"accelerator": "auto", "devices": 2}, 8, 2),
        ("auto", {"accelerator": "gpu", "devices": "auto"}, 8, 8),
        (0.5, {"accelerator": "auto", "devices": 1}, 1, 0.5),
        (None, {"accelerator": "auto", "devices": 1}, 1, 0),
    ],
)
def test_gpus_of_a_run_that_ray_places(given: object, trainer: dict[str, object], found: int, gpus: float) -> None:
    assert _gpus({"num_gpus": given}, OmegaConf.create({"trainer": trainer}), found, local=True) == gpus


def test_more_gpus_than_available_are_refused() -> None:
    config = OmegaConf.create({"trainer": {"accelerator": "gpu", "devices": 4}})
    for given in (4, "auto"):
        with pytest.raises(ConfigError, match=r"num_gpus must be <= 2, the GPUs of this machine, got 4"):
            _gpus({"num_gpus": given}, config, 2, local=True)
    assert _gpus({"num_gpus": 4}, config, 2, local=False) == 4, "a cluster may grow"


def test_runs_that_differ_in_secrets_alone_are_one_run() -> None:
    jobs = [[f"data.url=http://me:{word}@h/x.gz?token={word}&v={v}"] for word in ("a", "b") for v in (1, 2)]
    entries = plan(jobs)
    assert len(entries) == 2 and all("REDACTED" in entry.directory for entry in entries)
    path = f"sweep/{entries[0].directory}/config.yaml"
    assert redact(path) == path, "messages name the folder"
    assert entries[0].overrides == jobs[0], "the run itself needs the true address"
    assert plan(jobs[2:])[0].directory == entries[0].directory


def test_a_retried_run_gets_the_true_address(tmp_path: Path) -> None:
    """The plan on disk lacks the password."""
    entry = plan([["data.url=http://me:pw@h/x"]])[0]
    write_plan(tmp_path, [entry])
    assert read_plan(tmp_path)[0].overrides == ["data.url=http://REDACTED@h/x"]
    sweeper = GridSweeper()
    sweeper._config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    sweeper._launcher = Mock()
    sweeper._launcher.launch.return_value = [JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError("crashed"))]
    config = Mock(**{"sweep.retries": 1, "pruner.name": "none", "trainer.timeout_seconds": 600})
    assert sweeper._work(tmp_path, [entry], config) == ({}, {entry.directory: "RuntimeError: crashed"})
    launched = [call.args[0][0][0] for call in sweeper._launcher.launch.call_args_list]
    assert launched == entry.overrides * 2


def test_a_sweep_gives_up_a_run_whose_process_does_not_respond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(lock, "_TOUCH_SECONDS", 0.01)
    entry = Entry(directory="template=1", overrides=["template=1"], swept=["template=1"])
    write_plan(tmp_path, [entry])
    (tmp_path / "template=1").mkdir()
    with held(tmp_path / "template=1" / ".lock"), pytest.raises(ResourceError, match=r"template=1/\.lock is held by"):
        GridSweeper()._wait_for_others(tmp_path, [entry], lock.HolderWatch(0.1))
