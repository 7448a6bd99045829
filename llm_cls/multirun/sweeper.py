"""The sweeper behind ``--multirun``: every combination of the swept values, planned before the first one runs."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from llm_cls.cli import shown_path, summarize
from llm_cls.config.compose import quoted, raised_by_hydra, to_type
from llm_cls.config.schema import Config, parse_config
from llm_cls.errors import ArtifactError, ConfigError, OtherRunError, RunInterrupted
from llm_cls.files import write_text
from llm_cls.multirun.conclusion import conclude, current_states
from llm_cls.multirun.grid import check_values, latest, own_grid, plan, spread
from llm_cls.multirun.jobs import as_choice, unwritable_error
from llm_cls.multirun.workers import Reasons, environments, run_workers
from llm_cls.redaction import redact_tree
from llm_cls.runs import layout
from llm_cls.runs.identity import settings
from llm_cls.runs.lock import HolderWatch
from llm_cls.runs.sweep import Entry, PlannedRun, read_plan, write_plan
from llm_cls.signals import raise_if_received
from llm_cls.training.launch import launched_world_size

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class GridSweeper(Sweeper):
    """Runs the grid with any launcher, until every combination has a result or has finally failed.

    Each combination has a folder named after what is swept, and its state is read from there (``runs/sweep.py``):
    a run that another process trains is left to it, and a failed one is retried at the end.
    """

    def __init__(self, params: Mapping[str, str] | None = None) -> None:
        """Takes the grid of an experiment file; the command line overrides it."""
        self._params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See ``hydra.plugins.sweeper.Sweeper``.

        Raises:
            ConfigError: The launcher's package is not installed.
        """
        self._config, self._loader = config, hydra_context.config_loader
        # It repeats all overrides for each run; the task itself prints those that differ.
        logging.getLogger("hydra._internal.core_plugins.basic_launcher").setLevel(logging.WARNING)
        for key in config:  # resolves values that depend on the clock once for all runs: OmegaConf caches them
            with suppress(OmegaConfBaseException):  # reported when the runs are checked
                if key != "hydra" and OmegaConf.is_config(config[key]):
                    OmegaConf.to_container(config[key], resolve=True)
        try:
            self._launcher: Any = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
        except RuntimeError as error:
            if "submitit" not in str(error):
                raise
            raise ConfigError(
                "hydra/launcher=submitit_slurm needs submitit. Install it with: pip install -e '.[slurm]'"
            ) from None
        if (concurrent := config.sweep.get("concurrent", 1)) != 1:
            from hydra._internal.core_plugins.basic_launcher import BasicLauncher

            from llm_cls.multirun.joint_launcher import JointLauncher

            if not isinstance(self._launcher, BasicLauncher):
                raise ConfigError(
                    f"sweep.concurrent={concurrent} trains runs in one process, and {type(self._launcher).__name__} "
                    "gives each run its own. Leave out sweep.concurrent or hydra/launcher"
                )
            self._launcher = JointLauncher(self._launcher, concurrent)

    def sweep(self, arguments: list[str]) -> None:
        """Runs all combinations.

        Raises:
            ConfigError: A combination is not valid, or torchrun or srun has started this process. Nothing was run.
            SweepError: Some runs failed.
            RunInterrupted: A signal was received; the message says how to resume.
        """
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # slow, so Hydra itself imports it late

        if "TORCHELASTIC_RUN_ID" in os.environ or (launched_world_size() or 1) > 1:
            raise ConfigError(
                "--multirun starts the processes of every run itself. Start it without torchrun or srun, which would "
                "start every run several times; trainer=ddp trainer.devices=N gives each run N devices"
            )
        directory = Path(self._config.hydra.sweep.dir)
        parser = OverridesParser.create(config_loader=self._loader)
        overrides = latest(parser.parse_overrides([*own_grid(self._params), *arguments]))
        check_values(overrides)
        checked = self._check(plan(BasicSweeper.split_arguments(overrides, None)[0]))
        workers = environments([config for _, config in checked], self._config.hydra.launcher.get("_target_", ""))
        entries, config = self._with_known_names(directory, checked), checked[-1][1]
        record = directory / layout.SWEEP_CONFIG
        if write_plan(directory, entries) or not record.is_file():  # a refused sweep leaves no trace
            values = redact_tree(OmegaConf.to_container(self._config))
            write_text(record, OmegaConf.to_yaml(OmegaConf.create(values)))
        log.info("%s: %d runs", directory, len(entries))
        try:
            if len(workers) > 1:
                line = [*sys.argv[1:], f"hydra.sweep.dir={quoted(str(directory))}"]
                found = run_workers(workers, line, lambda: current_states(directory, entries))
            else:
                found = self._work(directory, entries, config)
            conclude(directory, current_states(directory, entries), *found)
        except RunInterrupted as error:
            place = to_type("hydra.sweep.dir", shown_path(directory))
            raise RunInterrupted(f"{error}. Resume with the same command and {place}") from None

    def _work(self, directory: Path, entries: Sequence[Entry], config: Config) -> tuple[Reasons, Reasons]:
        """Launches the runs without a result until none is left to try; see ``run_workers`` for what is returned."""
        # A pruner compares runs, so the first ones should be spread over the grid.
        left = entries if config.pruner.name == "none" else [entries[i] for i in spread(len(entries))]
        launched, attempts = 0, 1 + config.sweep.retries
        given = {entry.directory: entry for entry in entries}  # the plan on disk lacks their secrets
        reasons: Reasons = {}
        refused: set[str] = set()
        while left and attempts:
            errors = self._launch(left, launched)
            raise_if_received()
            for entry, error in zip(left, errors, strict=True):
                reasons.pop(entry.directory, None)
                if error is not None:
                    reasons[entry.directory] = summarize(error)[0]
                    if isinstance(error, OtherRunError | ArtifactError):  # the task records all other faults
                        refused.add(entry.directory)
            launched += len(left)
            runs, waited = self._wait_for_others(directory, entries, HolderWatch(config.trainer.timeout_seconds))
            left = [
                given[run.entry.directory]
                for run in runs
                if not (run.state.is_complete or run.is_permanent_failure or run.entry.directory in refused)
            ]
            attempts -= not waited  # the failed attempt of another process does not count
        return {name: reasons[name] for name in refused}, reasons

    def _launch(self, entries: Sequence[Entry], number: int) -> list[Exception | None]:
        """Runs ``entries`` and returns the errors of their processes; those of runs are recorded in their folders."""
        directory = Path(self._config.hydra.sweep.dir)
        errors = {entry.directory: unwritable_error(directory / entry.directory) for entry in entries}
        ready = [entry.directory for entry in entries if errors[entry.directory] is None]
        # Quoted, because Hydra parses values.
        place = f"hydra.sweep.dir={quoted(str(self._config.hydra.sweep.dir))}"
        jobs = [
            [*map(as_choice, entry.overrides), place, f"hydra.sweep.subdir={quoted(entry.directory)}"]
            for entry in entries
            if entry.directory in ready
        ]
        try:
            done = self._launcher.launch(jobs, initial_job_idx=number) if jobs else []
        except ConfigError:
            raise
        except Exception as error:  # some launchers abandon all jobs because of one
            log.warning("The launcher failed: %s", summarize(error)[0])
            errors |= dict.fromkeys(ready, error)
        else:
            failures = [job._return_value if job.status == JobStatus.FAILED else None for job in done]
            errors |= dict(zip(ready, failures, strict=True))
        return [errors[entry.directory] for entry in entries]

    def _check(self, entries: Sequence[Entry]) -> list[tuple[Entry, Config]]:
        """Composes and validates every combination before the first one runs; equal ones (0 and 0.0) are merged."""
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
        """The runs under the names that they already have in this sweep: with other axes a run gets another name."""
        planned = {entry.directory: entry for entry in read_plan(directory)}
        names = {entry.directory for entry, _ in checked}
        as_before = {
            e.directory
            for e, _ in checked
            if e.directory in planned and e.stored().overrides == planned[e.directory].overrides
        }
        known = self._results(planned.values()) if as_before < names else {}  # composing hundreds of runs takes seconds
        entries = []
        for entry, config in checked:
            result = settings(config)
            if entry.directory not in as_before and known.get(entry.directory) != result:
                others = (name for name in known if name not in names and known[name] == result)
                if (name := next(others, None)) is not None:
                    del known[name]
                    entry = Entry(directory=name, overrides=entry.overrides, swept=planned[name].swept)
            entries.append(entry)
        return entries

    def _results(self, entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
        """The settings of each entry that still composes, by its folder."""
        found = {}
        for entry in entries:
            try:
                found[entry.directory] = settings(parse_config(self._compose(entry)))
            except Exception as error:
                if not (isinstance(error, ConfigError) or raised_by_hydra(error)):
                    raise
        return found

    def _compose(self, entry: Entry) -> DictConfig:
        tree = self._loader.load_sweep_config(self._config, list(entry.overrides))
        if (tree.hydra.sweeper.get("params") or {}) != self._params:
            raise ConfigError(f"{', '.join(entry.swept)} is itself a grid and cannot be swept. Give it one value")
        with open_dict(tree):
            del tree["hydra"]
        return tree

    def _wait_for_others(
        self, directory: Path, entries: Sequence[Entry], others: HolderWatch
    ) -> tuple[list[PlannedRun], bool]:
        """The states of these runs once no other process trains any of them, and whether one did."""
        waited = False
        while True:
            runs = current_states(directory, entries)
            running = [directory / run.entry.directory for run in runs if run.state.name == "running"]
            if not running:
                return runs, waited
            if not waited:
                log.info("Waiting for another process, which is training %d of the runs", len(running))
            waited = True
            others.check(running)
            time.sleep(_POLL_SECONDS)
