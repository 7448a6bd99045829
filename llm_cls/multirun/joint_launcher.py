"""``sweep.concurrent``: runs of a sweep over the same frozen network train together in this process."""

import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from llm_cls.cli import logging_to
from llm_cls.config.schema import Config, parse_config
from llm_cls.files import sha256_json
from llm_cls.runs import layout

if TYPE_CHECKING:  # it imports torch
    from llm_cls.training.run_thread import RunThread


class JointLauncher:
    """Hydra's own launcher, except that it does not train runs over one frozen network one after the other."""

    def __init__(self, one_by_one: BasicLauncher, concurrent: int | Literal["auto"]) -> None:
        """Wraps the launcher that has been set up; at most ``concurrent`` runs train at a time."""
        self._one_by_one, self._concurrent = one_by_one, concurrent

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs and returns what each has returned, in their order."""
        configs = [self._compose(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        groups: dict[str, list[int]] = {}
        for i, config in enumerate(configs):
            groups.setdefault(_pass_key(config) or f"alone {i}", []).append(i)
        done: dict[int, JobReturn] = {}
        for numbers in groups.values():
            if len(numbers) > 1:
                done |= self._train_together({i: configs[i] for i in numbers})
            for i in numbers:
                if i not in done:
                    done[i] = self._one_by_one.launch([job_overrides[i]], initial_job_idx + i)[0]
        return [done[i] for i in range(len(configs))]

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        launcher = self._one_by_one
        assert launcher.hydra_context is not None and launcher.config is not None
        config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _train_together(self, configs: Mapping[int, DictConfig]) -> dict[int, JobReturn]:
        """The results by number; those that are faster one by one have none."""
        from llm_cls.training.joint import JointTraining
        from llm_cls.training.joint_shared import JointRun, JointShared

        launcher, shared = self._one_by_one, JointShared()
        assert launcher.config is not None
        runs = {}
        for i, config in configs.items():
            folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
            runs[i] = JointRun(folder.name, partial(self._run, config, folder), shared)
        of_sweep = HydraConfig.instance().cfg
        try:
            _log_to_console(next(iter(configs.values())))
            left = JointTraining(self._concurrent).run(list(runs.values()))
        finally:
            HydraConfig.instance().cfg = of_sweep  # each run has set its own
            configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
        return {i: _job_return(run) for i, run in runs.items() if run not in left}

    def _run(self, config: DictConfig, folder: Path) -> JobReturn:
        """One run, in its thread."""
        launcher = self._one_by_one
        assert launcher.hydra_context is not None and launcher.task_function is not None
        with logging_to(folder / layout.LOG):
            return run_job(
                hydra_context=launcher.hydra_context, task_function=launcher.task_function, config=config,
                job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir", configure_logging=False,
            )  # fmt: skip


class _NamedLines(logging.Formatter):
    """The lines of a console, with the name of the run that each is about."""

    def __init__(self, plain: logging.Formatter) -> None:
        """Takes the formatter of the configuration."""
        super().__init__()
        self._plain = plain

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        line = self._plain.format(record)
        main = record.thread == threading.main_thread().ident
        return line if main else f"{record.threadName}: {line}"


def _log_to_console(config: DictConfig) -> None:
    """Logs as the configuration of a run says, but into no file: the runs have their own."""
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = config.hydra.sweep.dir
    configure_log(config.hydra.job_logging, config.hydra.verbose)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
        else:
            handler.setFormatter(_NamedLines(handler.formatter or logging.Formatter()))


def _job_return(run: "RunThread") -> JobReturn:
    """The result of a run that has ended; an error outside of the task, as in making its folder, is that of one run."""
    result: JobReturn = run.result or JobReturn(_return_value=run.error, status=JobStatus.FAILED)
    if isinstance(error := result._return_value, BaseException):
        error.__traceback__ = error.__context__ = None  # they would keep the decoder of the pass
    return result


def _pass_key(config: DictConfig) -> str | None:
    """Equal for runs that can train together; None for one that cannot train with another.

    The working directory and the environment, which Hydra changes for each job, are those of the whole process.
    """
    if config.hydra.job.chdir or config.hydra.job.env_set:
        return None
    return _frozen_key(parse_config(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])))


def _frozen_key(config: Config) -> str | None:
    """See ``_pass_key``.

    Those over several devices have processes of their own, the reference engine and full fine-tuning no adapters apart
    from the network.
    """
    trainer = config.trainer
    if trainer.devices != 1 or trainer.num_nodes != 1 or config.lora.full or config.engine.name == "reference":
        return None
    seed = config.seed if config.model.weights == "random" else None
    sections = [section.model_dump(mode="json") for section in (config.model, config.engine)]
    return sha256_json([*sections, trainer.accelerator, trainer.precision, config.data.max_length, seed])
