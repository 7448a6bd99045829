"""The processes of a run on several devices."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from llm_cls.training import launch


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, None),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 4),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, 1),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),  # the script of a job, which srun has not started
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, 2),
    ],
)
def test_who_has_started_the_ranks(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], ranks: int | None
) -> None:
    for name in ("LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.started_together() == ranks


@pytest.mark.parametrize(
    ("given", "devices", "threads"), [("8", 2, "4"), ("1", 2, "1"), ("5", 2, "2"), (None, 4, "3"), ("4,2", 4, "3")]
)
def test_ranks_share_the_threads_of_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None, devices: int, threads: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    started = Mock(return_value=Mock(poll=Mock(return_value=0)))
    monkeypatch.setattr(launch.subprocess, "Popen", started)
    monkeypatch.setattr(launch, "usable_cores", lambda: 12)
    assert launch.launch_ranks(tmp_path, devices) == 0
    environments = [call.kwargs["env"] for call in started.call_args_list]
    assert [environment["OMP_NUM_THREADS"] for environment in environments] == [threads] * devices
    assert [environment["RANK"] for environment in environments] == [str(rank) for rank in range(devices)]
