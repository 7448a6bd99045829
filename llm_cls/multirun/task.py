"""What ``python -m llm_cls.train`` does with its command line: one run, or a sweep of them."""

import os
import shlex
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from llm_cls.cli import print_error, quiet_libraries, redacted_stdout, say, shown_path, summarize
from llm_cls.config.compose import accept_plain_values, split_flags
from llm_cls.config.groups import CONF
from llm_cls.config.help import train_help
from llm_cls.config.overrides import explained
from llm_cls.config.schema import Config, parse_config
from llm_cls.errors import (
    EXIT_UNEXPECTED,
    ArtifactError,
    ConfigError,
    LockedError,
    LostRankError,
    OtherRunError,
    RankError,
    ResourceError,
    RunInterrupted,
)
from llm_cls.metrics.percent import percent
from llm_cls.metrics.selection import MONITORS
from llm_cls.multirun import register_plugins
from llm_cls.multirun.created import created_paths
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.schema import Metrics, TestScores
from llm_cls.runs.steps import count_steps, too_few_steps
from llm_cls.runs.sweep import join_sweep, progress_line, read_states
from llm_cls.signals import raise_if_received
from llm_cls.training.failures import with_resume_command
from llm_cls.training.launch import Ranks, check_launcher, is_first_process, launched_world_size

if TYPE_CHECKING:  # it imports torch
    from llm_cls.training.shared import Shared


def compose_and_run() -> None:
    """The command, with Hydra's own errors made readable."""
    flags, overrides = split_flags(sys.argv[1:])
    if "--help" in flags:
        say(train_help())
        return
    check_launcher()
    accept_plain_values()
    register_plugins()
    sys.argv[1:] = [*flags, *overrides]
    # Hydra prints errors and exits by itself unless this is set; run_command gives them their exit codes.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # for a lost rank, torch would warn with a C++ traceback
    # conf/ has a file with the same name as the settings of the submitit plug-in, so that people type the usual name.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/submitit_slurm' is validated")
    failures: list[Exception] = []
    ranks = Ranks()
    kept: list[Shared] = []  # the object that the runs of a sweep share in this process

    def task(tree: DictConfig) -> float | None:
        try:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return _run_of_sweep(tree, ranks, kept)
            return _run(tree, ranks)
        except Exception as error:  # kept, because Hydra would report it in its own words
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # to the sweeper
            failures.append(error)
            return None

    asks = any(flag.startswith(("--cfg", "--info")) for flag in flags)  # Hydra prints the configuration
    with explained(overrides, "--multirun" in flags), redacted_stdout() if asks else nullcontext(), _ended(ranks):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    if failures:
        raise failures[0]


@contextmanager
def _ended(ranks: Ranks) -> Iterator[None]:
    """Ends the ranks, which wait for another run."""
    try:
        yield
    finally:
        ranks.end()


def _start(ranks: Ranks, config: Config, directory: Path) -> None:
    """Starts the ranks of a run, if it is certain by now that it has some: they take as long as this process to load.

    That of ``trainer.devices=auto`` depends on the devices, which only torch knows.
    """
    devices = config.trainer.devices
    if devices == "auto" or devices == 1 or config.trainer.num_nodes > 1 or launched_world_size() is not None:
        return
    if not (config.sweep.isolate or RunDirectory(directory).has_metrics):
        ranks.start(devices, config.trainer.timeout_seconds)


def _run(tree: DictConfig, ranks: Ranks) -> float | None:
    """One run; the value is its val score by ``trainer.monitor``, for Hydra's optimizing sweepers."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        config = parse_config(tree)
        if HydraConfig.get().sweeper.get("params"):
            raise ConfigError("This experiment is a grid. Add --multirun to run all of it")
        _start(ranks, config, directory)
        from llm_cls.training.run import run  # torch takes seconds to import; a misspelt key is reported first
        from llm_cls.training.shared import Shared

        ranks.libraries_loaded()
        quiet_libraries()
        metrics = run(config, directory, list(HydraConfig.get().overrides.task), Shared(ranks))
    except Exception as error:
        if isinstance(error, LostRankError) and (conclusion := with_resume_command(error, directory)) is not error:
            raise conclusion from None
        if is_first_process() and summarize(error)[1] != EXIT_UNEXPECTED:  # an unexpected error keeps its log
            RunDirectory(directory).remove_created(created_paths())
        raise
    except RunInterrupted as error:
        raise with_resume_command(error, directory) from None
    if is_first_process():
        say(_summary(metrics, config, directory))
    return metrics.val.value(config.trainer.monitor)


def _run_of_sweep(tree: DictConfig, ranks: Ranks, kept: "list[Shared]") -> float | None:
    """One run of a sweep: its failure is recorded and does not affect other runs."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    config, overrides = join_sweep(parse_config(tree), directory)
    with suppress(ResourceError, OSError):  # the run itself reports it
        _start(ranks, config, directory)
    from llm_cls.training.joint_shared import JointRun
    from llm_cls.training.run import run
    from llm_cls.training.shared import Shared, freeze_libraries

    quiet_libraries()
    thread = threading.current_thread()
    if not kept:
        ranks.libraries_loaded()
        freeze_libraries()
        kept.append(Shared(ranks))
    shared = thread.shared.over(kept[0]) if isinstance(thread, JointRun) else kept[0]
    run_directory = RunDirectory(directory)
    say(f"Run {directory.name}")
    try:
        metrics = run(config, directory, overrides, shared, config.sweep.isolate)
    except LockedError:
        return None  # another process trains it
    except OtherRunError:
        raise  # nothing is written into the folder of another run
    except Exception as error:
        raise_if_received()  # a signal matters more than the errors that it causes
        if run_directory.has_metrics:
            if isinstance(error, ArtifactError):
                raise  # the damaged run is left as it is, for inspection
            raise OtherRunError(f"{directory} holds another run, which is finished: {summarize(error)[0]}") from None
        print_error(error, directory.name)
        if not (isinstance(error, RankError) and run_directory.state.name == "failed"):  # the rank has recorded it
            run_directory.record_failure(*summarize(error))
        metrics = None
    say(progress_line(read_states(directory.parent)))  # not logged: the files of finished runs stay as they are
    return metrics.val.value(config.trainer.monitor) if metrics else None


def _summary(metrics: Metrics, config: Config, directory: Path) -> str:
    """The end of a run: scores, where they are, what to type next."""
    where = shown_path(directory)
    test, val, monitor = metrics.test, metrics.val, MONITORS[config.trainer.monitor]
    lines = [""]
    if val.f1 is None or (test is not None and test.f1 is None):
        lines += ["The training diverged: no epoch gave finite scores. Try a smaller optimizer.lr."]
    else:
        lines += [
            f"Best epoch {metrics.best_epoch} of {metrics.epochs_run}, chosen by val {monitor.title}; "
            f"{metrics.seconds.total:.0f} s",
            f"  val   F1 {_percent(val.f1)}   accuracy {_percent(val.accuracy)}   ({val.n} texts)",
            _test_line(test),
        ]
        if monitor.name not in ("f1", "accuracy"):
            found = [(split, scores.value(monitor.name)) for split, scores in (("val ", val), ("test", test)) if scores]
            lines += [
                f"  {split}  {monitor.title} {monitor.show(score)}" for split, score in found if score is not None
            ]
        if metrics.status == "diverged":
            lines += ["The training diverged after that epoch. Try a smaller optimizer.lr."]
        if metrics.collapsed:
            fix = "Try another optimizer.lr."
            record = RunDirectory(directory).state.record
            steps = record and count_steps(record.data.n_train, config.data.batch_size, metrics.epochs_run)
            if steps and (few := too_few_steps(steps)):
                fix = f"It had {few}. Try more trainer.max_epochs, or a smaller data.batch_size."
            if config.trainer.max_epochs <= config.optimizer.warmup_epochs:
                fix = (
                    "All epochs were warm-up: trainer.max_epochs should be > optimizer.warmup_epochs "
                    f"({config.optimizer.warmup_epochs:g}), was {config.trainer.max_epochs}. "
                    "Try more epochs, or optimizer.warmup_epochs=0.1."
                )
            lines += [f"Collapsed: half of the labels or more are never predicted. {fix}"]
    lines += [f"Run directory: {where}"]
    if metrics.best_epoch is not None:
        lines += [
            "Next:",
            f"  python -m llm_cls.predict {shlex.quote(f'run={where}')} input=texts.csv output=labels.csv",
            f"  python -m llm_cls.report {shlex.quote(f'dir={where}')}",
        ]
    return "\n".join(lines)


def _test_line(test: TestScores | None) -> str:
    if test is None or test.f1_ci95 is None:
        return "  test  none: the data has no test split, and val has chosen the epoch"
    low, high = test.f1_ci95
    return (
        f"  test  F1 {_percent(test.f1)}   accuracy {_percent(test.accuracy)}   ({test.n} texts; "
        f"95 % interval of F1: {percent(low)} to {percent(high)})"
    )


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{percent(score)} %"
