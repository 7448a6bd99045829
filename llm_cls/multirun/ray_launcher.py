"""``hydra/launcher=ray``: the runs of a sweep as tasks of Ray, on this machine or on a cluster."""

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from llm_cls import signals
from llm_cls.errors import ConfigError, first_line

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


class RayLauncher(Launcher):
    """Every run is a task with its own process; Ray starts as many at a time as the machines have room for.

    hydra-ray-launcher (1.2) is not used: it ends the whole sweep when one task dies, assigns the same fixed number of
    GPUs to every task, and depends on boto3 and aiohttp.
    """

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        """Takes the arguments of ``ray.init`` and ``ray.remote``; of the latter ``num_gpus`` may be "auto"."""
        self._init, self._remote = dict(init), dict(remote)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See ``hydra.plugins.launcher.Launcher``.

        Raises:
            ConfigError: Ray is not installed.
        """
        try:  # here, before a sweep writes its plan
            import ray  # noqa: F401
        except ImportError:
            raise ConfigError("hydra/launcher=ray needs Ray. Install it with: pip install -e '.[ray]'") from None
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs and waits for all of them; a job whose process dies affects no other.

        Raises:
            ConfigError: This machine has too few GPUs for one of the jobs.
        """
        import ray

        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        started = not ray.is_initialized()
        local = not (self._init.get("address") or os.environ.get("RAY_ADDRESS"))
        if started:
            on_sigterm = signal.getsignal(signal.SIGTERM)
            ray.init(**self._init)
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has replaced the handler by one that just exits
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        found = int(max(resources.get("GPU", 0) for resources in nodes))
        tasks = []
        try:
            for number, overrides in enumerate(job_overrides, initial_job_idx):
                config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
                with open_dict(config):
                    config.hydra.job.id = f"job_{number}"
                    config.hydra.job.num = number
                options = {"max_retries": 0, **self._remote, "num_gpus": _gpus(self._remote, config, found, local)}
                task = ray.remote(**options)(_run)
                tasks.append(task.remote(self._context, self._task, config, Singleton.get_state()))
            with signals.signals_first():  # Ray converts an exception that a signal raises while it waits
                while ray.wait(tasks, num_returns=len(tasks), timeout=_POLL_SECONDS)[1]:
                    signals.raise_if_received()
            return [_result(task) for task in tasks]
        except BaseException:
            for task in tasks:  # they would continue without this process
                ray.cancel(task, force=True)
            raise
        finally:
            if started:
                ray.shutdown()


def _gpus(remote: Mapping[str, Any], config: DictConfig, found: int, local: bool) -> float:
    """The number of GPUs of one run, where the largest machine has ``found``.

    Raises:
        ConfigError: It needs more than this machine has (``local``), so Ray would wait forever.
    """
    if (gpus := remote.get("num_gpus")) == "auto":
        if not found or config.trainer.accelerator == "cpu":
            return 0
        gpus = found if config.trainer.devices == "auto" else config.trainer.devices
    if local and (gpus or 0) > found:
        raise ConfigError(
            f"hydra.launcher.remote.num_gpus must be <= {found}, the GPUs of this machine, got {gpus}. "
            "Try hydra.launcher.remote.num_gpus=auto"
        )
    return float(gpus or 0)


def _result(task: Any) -> JobReturn:
    import ray

    try:
        result: JobReturn = ray.get(task)
    except ray.exceptions.RayError as error:
        return JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError(first_line(error)))
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
