"""The sweeper behind ``--multirun``: every combination of the swept values, planned before the first one runs."""

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from llm_cls.cli import summarize
from llm_cls.config.compose import quoted, to_type
from llm_cls.config.groups import GROUPS
from llm_cls.config.schema import Config, parse_config
from llm_cls.errors import ConfigError, OtherRunError, ResourceError, RunInterrupted, SweepError
from llm_cls.files import write_text
from llm_cls.runs.sweep import Entry, State, directory_name, progress_line, read_plan, read_states, write_plan
from llm_cls.signals import check
from llm_cls.training.launch import started_together

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_NEUTRAL: Any = {  # changes no result; an archive does, where it holds other texts
    "logger": True,
    "sweep": True,
    "trainer": {"accelerator", "devices", "num_nodes", "progress_bar"},
    "data": {"cache_dir", "micro_batch_size", "eval_batch_size"},
    "engine": {"gradient_checkpointing"},
}


class GridSweeper(Sweeper):
    """Runs the grid with any launcher, until every combination has a result or has failed for good.

    Each combination has a folder named by what is swept, and its state is read from there (``ledger.py``):
    one that another process is at is left to it, one that has failed is tried again at the end.
    """

    def __init__(self, params: Mapping[str, str] | None = None) -> None:
        """Sweeps over ``params`` too, as an experiment's file gives them; the command line comes before them."""
        self._params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See ``hydra.plugins.sweeper.Sweeper``.

        Raises:
            ConfigError: The launcher's package is not installed.
        """
        self._config, self._loader = config, hydra_context.config_loader
        for key in config:  # what is set by the clock is read here, once for all runs: OmegaConf keeps it
            with suppress(OmegaConfBaseException):  # a fault is told when the runs are checked
                if key != "hydra" and OmegaConf.is_config(config[key]):
                    OmegaConf.to_container(config[key], resolve=True)
        try:
            self._launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
        except RuntimeError as error:
            if "submitit" not in str(error):
                raise
            raise ConfigError(
                "hydra/launcher=submitit_slurm needs submitit. Install it with: pip install -e '.[slurm]'"
            ) from None

    def sweep(self, arguments: list[str]) -> None:
        """Runs all combinations.

        Raises:
            ConfigError: Some combination is not valid, or torchrun or srun has started this; nothing has been run then.
            SweepError: Some runs failed.
            RunInterrupted: A signal has come; the message says how to go on.
        """
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # which Hydra itself imports late

        if "TORCHELASTIC_RUN_ID" in os.environ or (started_together() or 1) > 1:
            raise ConfigError(
                "--multirun starts the processes of every run itself, torchrun or srun would start every run several "
                "times. Leave it out: trainer=ddp trainer.devices=N gives each run N devices of this machine"
            )
        directory = Path(self._config.hydra.sweep.dir)
        parser = OverridesParser.create(config_loader=self._loader)
        params = [f"{key}={value}" for key, value in self._params.items()]
        overrides = _latest(parser.parse_overrides([*params, *arguments]))
        _refuse_intervals(overrides)
        checked = self._check(plan(BasicSweeper.split_arguments(overrides, None)[0]))
        entries, config = self._with_known_names(directory, checked), checked[-1][1]
        record = directory / "multirun.yaml"
        if write_plan(directory, entries) or not record.is_file():  # what is refused leaves no trace
            write_text(record, OmegaConf.to_yaml(self._config))
        log.info("%s: %d runs", directory, len(entries))
        try:
            self._work(directory, entries, config)
        except RunInterrupted as error:
            place = to_type("hydra.sweep.dir", os.path.relpath(directory))
            raise RunInterrupted(f"{error}. Go on with the same command and {place}") from None

    def _work(self, directory: Path, entries: Sequence[Entry], config: Config) -> None:
        """Launches what has no result until nothing is left to try."""
        # What ends runs early compares them: with runs from all over the grid it knows soon what is good.
        left = entries if config.pruner.name == "none" else [entries[i] for i in spread(len(entries))]
        launched, attempts = 0, 1 + config.sweep.retries
        reasons: dict[str, str] = {}
        refused: set[str] = set()
        while left and attempts:
            errors = self._launch(left, launched)
            check()
            for entry, error in zip(left, errors, strict=True):
                reasons.pop(entry.directory, None)
                if error is not None:
                    reasons[entry.directory] = summarize(error)[0]
                    if isinstance(error, OtherRunError):
                        refused.add(entry.directory)
            launched += len(left)
            states, waited = self._wait_for_others(directory, entries)
            left = [s.entry for s in states if not (s.is_complete or s.is_hopeless or s.entry.directory in refused)]
            attempts -= not waited  # what another process left behind was no attempt of ours
        if len(refused) < len(states):
            log.info("%s", progress_line([state for state in states if state.entry.directory not in refused]))
        failed = []
        for state in states:
            name = state.entry.directory
            if name in refused:
                failed.append(reasons[name])
            elif not state.is_complete:
                failed.append(f"{name}: {state.name}: {reasons.get(name) or state.reason or 'its process has died'}")
        if failed:
            raise SweepError("\n".join([f"{len(failed)} of {len(states)} runs of {directory} failed", *failed]))

    def _launch(self, entries: Sequence[Entry], number: int) -> list[Exception | None]:
        """Runs ``entries``; what comes back is not the failure of a run, which is written down, but of its process."""
        directory = Path(self._config.hydra.sweep.dir)
        errors = {entry.directory: _in_the_way(directory / entry.directory) for entry in entries}
        ready = [entry.directory for entry in entries if errors[entry.directory] is None]
        # Hydra reads values as its own language, hence the quotes.
        place = f"hydra.sweep.dir={quoted(str(self._config.hydra.sweep.dir))}"
        jobs = [
            [*map(_as_choice, entry.overrides), place, f"hydra.sweep.subdir={quoted(entry.directory)}"]
            for entry in entries
            if entry.directory in ready
        ]
        try:
            done = self._launcher.launch(jobs, initial_job_idx=number) if jobs else []
        except ConfigError:
            raise
        except Exception as error:  # of a launcher that gives up all jobs for one
            log.warning("The launcher failed: %s", summarize(error)[0])
            errors |= dict.fromkeys(ready, error)
        else:
            failures = [job._return_value if job.status == JobStatus.FAILED else None for job in done]
            errors |= dict(zip(ready, failures, strict=True))
        return [errors[entry.directory] for entry in entries]

    def _check(self, entries: Sequence[Entry]) -> list[tuple[Entry, Config]]:
        """Composes and validates every combination before the first one runs; equal ones (0 and 0.0) are one."""
        faults: dict[str, None] = {}
        different: dict[str, tuple[Entry, Config]] = {}
        for entry in entries:
            try:
                config = parse_config(self._compose(entry))
            except ConfigError as error:
                faults |= dict.fromkeys(str(error).splitlines())
            else:
                different.setdefault(config.model_dump_json(), (entry, config))
        if faults:
            raise ConfigError("\n".join(faults))
        return list(different.values())

    def _with_known_names(self, directory: Path, checked: Sequence[tuple[Entry, Config]]) -> list[Entry]:
        """The runs under the names that they have in this sweep already: with other axes one is named differently."""
        planned = {entry.directory: entry for entry in read_plan(directory)}
        names = {entry.directory for entry, _ in checked}
        as_before = {
            e.directory for e, _ in checked if e.directory in planned and e.overrides == planned[e.directory].overrides
        }
        known = self._results(planned.values()) if as_before < names else {}  # composing hundreds of runs takes seconds
        entries = []
        for entry, config in checked:
            result = _result(config)
            if entry.directory not in as_before and known.get(entry.directory) != result:
                others = (name for name in known if name not in names and known[name] == result)
                if (name := next(others, None)) is not None:
                    del known[name]
                    entry = Entry(name, entry.overrides, planned[name].swept)
            entries.append(entry)
        return entries

    def _results(self, entries: Iterable[Entry]) -> dict[str, str]:
        """What each of them computes, by its folder; those of another version, which can't be read, are left out."""
        found = {}
        for entry in entries:
            with suppress(ConfigError, HydraException, OmegaConfBaseException):
                found[entry.directory] = _result(parse_config(self._compose(entry)))
        return found

    def _compose(self, entry: Entry) -> DictConfig:
        tree = self._loader.load_sweep_config(self._config, list(entry.overrides))
        if (tree.hydra.sweeper.get("params") or {}) != self._params:
            raise ConfigError(f"{', '.join(entry.swept)} is a grid itself, which can't be swept. Give it one value")
        with open_dict(tree):
            del tree["hydra"]
        return tree

    def _wait_for_others(self, directory: Path, entries: Sequence[Entry]) -> tuple[list[State], bool]:
        """The states of these runs once no other process is at any of them, and whether one was."""
        mine = {entry.directory for entry in entries}
        waited = False
        while True:
            states = [state for state in read_states(directory) if state.entry.directory in mine]
            if len(states) < len(mine):  # somebody has removed the plan
                write_plan(directory, entries)
                continue
            running = sum(state.name == "running" for state in states)
            if not running:
                return states, waited
            if not waited:
                log.info("Waiting for another process, which is at %d of the runs", running)
            waited = True
            time.sleep(_POLL_SECONDS)


def spread(n: int) -> list[int]:
    """0 to n - 1 from the middle on, in an order of which every beginning is spread evenly (van der Corput's).

    The ends of a grid are often bad, and what comes first is compared with nothing.

    >>> spread(8)
    [4, 0, 6, 2, 5, 1, 7, 3]
    """
    bits = max(1, (n - 1).bit_length())
    order = [i for i in (int(f"{k:0{bits}b}"[::-1], 2) for k in range(2**bits)) if i < n]
    return [(i + n // 2) % n for i in order]


def plan(jobs: Sequence[Sequence[str]]) -> list[Entry]:
    """The combinations as planned runs; equal ones once."""
    if not jobs:
        raise ConfigError("The grid is empty: some key has no value. Give each swept key one value at least")
    varied = [i for i in range(len(jobs[0])) if len({job[i] for job in jobs}) > 1]
    keys = {i: jobs[0][i].lstrip("+~").partition("=")[0] for i in varied}
    varied.sort(key=keys.__getitem__)  # a run has one name, in whatever order the axes are given
    for key in keys.values():
        if key.startswith(("sweep.", "hydra.")):
            raise ConfigError(f"{key} can't be swept: it is of the whole sweep, not of a run. Give it one value")
    entries: dict[str, Entry] = {}
    for job in jobs:
        swept = tuple(job[i] for i in varied)
        name = directory_name(swept)
        entries.setdefault(name, Entry(name, tuple(job), swept))
    return list(entries.values())


def _result(config: Config) -> str:
    """All of a configuration that may change the result of a run, for comparison."""
    return config.model_dump_json(exclude=_NEUTRAL)


def _latest(overrides: Sequence[Override]) -> list[Override]:
    """The last override of each key, whichever of the prefixes ``+`` and ``++`` it has."""
    return list({(o.key_or_group, o.package, o.is_delete()): o for o in overrides}.values())


def _refuse_intervals(overrides: Sequence[Override]) -> None:
    """A grid has no use for ``lr=interval(1e-4,1e-3)``, which names no values."""
    if lines := [
        f"{o.input_line} names no values, which a grid needs. Give them one by one, as {o.key_or_group}=A,B,C, "
        f"or as {o.key_or_group}=range(START,STOP,STEP)"
        for o in overrides
        if o.is_interval_sweep()
    ]:
        raise ConfigError("\n".join(lines))


def _in_the_way(run: Path) -> Exception | None:
    """What is at the place of a run's folder or log and can't be one; launchers give up all runs for it."""
    log_file = run / "train.log"
    if os.path.lexists(run) and not (run.is_dir() and os.access(run, os.W_OK | os.X_OK)):
        return ResourceError(f"{run} must be a folder that can be written. Move away what is there")
    if os.path.lexists(log_file) and not (log_file.is_file() and os.access(log_file, os.W_OK)):
        return ResourceError(f"{log_file} must be a file that can be written. Move away what is there")
    return None


def _as_choice(override: str) -> str:
    """``template=2`` as the name of a file, in processes too where ``accept_plain_values`` was not called."""
    key, _, value = override.partition("=")
    return f"{key}={quoted(value)}" if key in GROUPS and value.isdecimal() else override
