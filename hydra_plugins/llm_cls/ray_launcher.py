"""``hydra/launcher=ray``: the runs of a sweep as tasks of Ray, on this machine or on a cluster."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from llm_cls.errors import ConfigError

log = logging.getLogger(__name__)


class RayLauncher(Launcher):
    """Every run is a task with a process of its own; Ray starts as many at a time as there is room for."""

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        """Takes the arguments of ``ray.init`` and ``ray.remote``."""
        self._init, self._remote = dict(init), dict(remote)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See ``hydra.plugins.launcher.Launcher``."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs and waits for all of them; one whose process dies takes no other along."""
        try:
            import ray
        except ImportError:
            raise ConfigError("hydra/launcher=ray needs Ray. Install it with: pip install 'llm_cls[ray]'") from None
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        started = not ray.is_initialized()
        if started:
            ray.init(**self._init)
        remote = ray.remote(**{"max_retries": 0, **self._remote})(_run)
        tasks = []
        try:
            for number, overrides in enumerate(job_overrides, initial_job_idx):
                log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
                config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
                with open_dict(config):
                    config.hydra.job.id = f"job_{number}"
                    config.hydra.job.num = number
                tasks.append(remote.remote(self._context, self._task, config, Singleton.get_state()))
            return [_result(task) for task in tasks]
        finally:
            if started:
                ray.shutdown()


def _result(task: Any) -> JobReturn:
    import ray

    try:
        result: JobReturn = ray.get(task)
    except ray.exceptions.RayError as error:
        return JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError(str(error).splitlines()[0]))
    return result


def _run(context: HydraContext, task: TaskFunction, config: DictConfig, state: Any) -> JobReturn:
    """The task itself, in Ray's process."""
    Singleton.set_state(state)
    setup_globals()
    return run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
