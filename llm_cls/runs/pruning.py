"""Ends the runs of a sweep that can't win: Optuna's rules over the val F1 of each epoch, and two of our own.

Every run of a sweep is a trial of one Optuna study, kept as a journal in the sweep's folder, where runs of
other processes and machines find it. A run that is resumed goes on with its trial.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from llm_cls.config.schema import PrunerConfig
from llm_cls.errors import ArtifactError, first_line
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.runs.layout import JOURNAL
from llm_cls.runs.sweep import is_sweep

_NO_INFORMATION = 1e-3  # nats; networks before their first step have ten times as much


class Pruner:
    """Judges one run after each of its epochs."""

    def __init__(self, config: PrunerConfig, run: Path, max_epochs: int, data: str = "") -> None:
        """Takes part in the study of the sweep that ``run`` belongs to; outside a sweep there is none.

        Args:
            config: The rules.
            run: The run directory.
            max_epochs: Of the run.
            data: Names the texts that the run is trained and judged on: scores on others can't be compared.

        Raises:
            ArtifactError: The journal is damaged.
        """
        self._journal = run.parent / JOURNAL
        self._config, self._name, self._max_epochs = config, run.name, max_epochs
        self._trial: Any = None
        self._study: Any = None
        self._reported: set[int] = set()
        if config.name != "none" and is_sweep(run.parent):
            with self._errors():
                study = f"{max_epochs} epochs {data}".strip()
                self._study = _open_study(config, self._journal, max_epochs, study)
                self._trial, self._reported = _unfinished_trial(self._study, self._name)

    def should_stop(self, epoch: int, val: Evaluation) -> bool:
        """Whether the run ends with ``epoch`` (from 1), whose val scores are ``val``."""
        prune = False
        if self._study is not None and val.finite:
            with self._errors():
                if self._trial is None:
                    self._trial = self._study.ask()
                    self._trial.set_user_attr("run", self._name)
                if epoch not in self._reported:  # it is, if the run was killed before it could write its checkpoint
                    self._trial.report(val.f1, epoch)
                prune = self._trial.should_prune() or self._lags_behind(epoch, len(val.labels))
        if epoch == self._max_epochs:
            return False
        return prune or (self._config.stop_collapsed and has_collapsed(val))

    def _lags_behind(self, epoch: int, n_texts: int) -> bool:
        """Whether this run's best val F1 is further behind the best of the others than training still changes.

        Optuna's rules rank runs, which says little while many are equally good, and compare with finished runs
        alone. The gap to the best run tells hopeless runs from late ones early, with any number of runs at a time.
        One that has trained for fewer epochs counts as well: it can only get better.

        A gap of two standard errors is no gap: that of a share f of ``n_texts`` texts is sqrt(f (1 - f) / n_texts).
        """
        if self._config.max_lag is None or epoch < 2:  # the first epoch is the warm-up
            return False
        own = top = 0.0  # the best of this run, and of the others
        for trial in self._study.get_trials(deepcopy=False):
            best = max((f1 for step, f1 in trial.intermediate_values.items() if step <= epoch), default=0.0)
            if trial.number == self._trial.number:
                own = best
            elif trial.user_attrs.get("run") != self._name:  # else of the same run, before it was removed
                top = max(top, best)
        allowed = top * self._config.max_lag * (1 - epoch / self._max_epochs) ** 2
        return own < top - max(allowed, 2 * math.sqrt(top * (1 - top) / n_texts))

    def end(self, val_f1: float | None, pruned: bool) -> None:
        """Ends the trial, so that the other runs are compared with it."""
        if self._trial is None:
            return
        from optuna.trial import TrialState

        with self._errors():
            if val_f1 is None or pruned:
                state = TrialState.PRUNED if pruned else TrialState.FAIL
                self._study.tell(self._trial, state=state, skip_if_finished=True)
            else:
                self._study.tell(self._trial, val_f1, skip_if_finished=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Names the file in what Optuna makes of a damaged journal."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
            raise ArtifactError(
                f"{self._journal} is damaged: {type(error).__name__}: {first_line(error)}. Remove it and "
                "start the sweep again: finished runs stay, and the pruner begins anew"
            ) from error


def has_collapsed(val: Evaluation) -> bool:
    """Whether the network gives every text the same answer, so that there is nothing left to learn with.

    A run that has learnt little yet may also predict few labels, and be the winner in the end; but its
    probabilities differ from text to text. Hence the mutual information of text and predicted label in nats,
    the mean over the texts of KL(p(label | text) || p(label)), has to vanish too.
    """
    if not val.finite or len(set(val.predictions.tolist())) > 1:
        return False
    p = np.maximum(val.probabilities.astype(np.float64), 1e-30)
    information = (p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()
    return bool(information < _NO_INFORMATION)


class _FileLock:
    """Optuna's interface of a lock, with one that the system frees when its holder dies."""

    def __init__(self, path: Path) -> None:
        self._lock = filelock.FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def _open_study(config: PrunerConfig, journal: Path, max_epochs: int, name: str) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if config.name == "median":
        first = math.ceil(config.warmup_fraction * max_epochs) + 1  # Optuna counts the epoch that it may end
        rule: Any = optuna.pruners.MedianPruner(n_startup_trials=config.startup_runs, n_warmup_steps=first)
    else:
        rule = optuna.pruners.HyperbandPruner(config.min_epochs, max_epochs, config.reduction_factor)
    lock: Any = _FileLock(journal.with_name(f".{journal.name}.lock"))
    _drop_torn_line(journal, lock)
    return optuna.create_study(
        study_name=name, direction="maximize", load_if_exists=True, pruner=rule,
        sampler=optuna.samplers.RandomSampler(),  # asked for nothing: Hydra has chosen the values
        storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=lock)),
    )  # fmt: skip


def _drop_torn_line(journal: Path, lock: Any) -> None:
    """Takes away what a full disk has left of a last line: the next one would be joined to it."""
    lock.acquire()
    try:
        text = journal.read_bytes() if journal.is_file() else b""
        if text and not text.endswith(b"\n"):
            os.truncate(journal, text.rfind(b"\n") + 1)
    finally:
        lock.release()


def _unfinished_trial(study: Any, name: str) -> tuple[Any, set[int]]:
    """The trial that the run ``name`` had before an interruption, and the epochs that it knows."""
    import optuna

    for known in reversed(study.get_trials(deepcopy=False)):
        if known.user_attrs.get("run") == name and known.state == optuna.trial.TrialState.RUNNING:
            return optuna.trial.Trial(study, known._trial_id), set(known.intermediate_values)
    return None, set()
