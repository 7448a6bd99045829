"""Which runs of a sweep train together."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus

from llm_cls.config.compose import accept_plain_values
from llm_cls.config.groups import CONF
from llm_cls.multirun.joint_launcher import _job_return, _pass_key
from llm_cls.training.run_thread import RunThread

accept_plain_values()


def key(*overrides: str) -> str | None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("config", ["model=ja-mini", "data=sample", "trainer=cpu", *overrides], return_hydra_config=True)
    return _pass_key(tree)


def test_runs_with_one_network_train_together() -> None:
    first = key()
    assert first is not None
    for same in (
        "optimizer.lr=1",
        "seed=1",
        "template=1",
        "lora=r4",
        "lora.target_modules=all-linear",
        "data.limit=90",
    ):
        assert key(same) == first
    others = [key(other) for other in ("model.pooling=first", "data.max_length=9", "trainer.precision=32-true")]
    assert len({first, *others}) == 4 and None not in others


@pytest.mark.parametrize(
    "override",
    ["trainer.devices=2", "lora=full", "engine=reference", "hydra.job.chdir=true", "+hydra.job.env_set.A=b"],
)
def test_what_changes_the_process_or_the_network_trains_alone(override: str) -> None:
    assert key(override) is None


def test_an_error_before_the_task_is_that_of_one_run() -> None:
    def fails() -> None:
        raise PermissionError("no folder")

    done = JobReturn(status=JobStatus.COMPLETED)
    runs = [RunThread("bad", fails), RunThread("good", lambda: done)]
    for run in runs:
        run.resume()
    failed, other = map(_job_return, runs)
    assert failed.status == JobStatus.FAILED and isinstance(failed._return_value, PermissionError) and other is done
    assert failed._return_value.__traceback__ is None, "it would keep what the pass has loaded"
