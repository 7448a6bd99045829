"""Ends the runs of a sweep that cannot become the best: Optuna's rules on the val score of each epoch, and two more.

Every run of a sweep is a trial of one Optuna study. Its journal lies in the folder of the sweep, where runs of other
processes and machines find it. A resumed run continues its trial.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm_cls.config.schema import PrunerConfig
from llm_cls.errors import ArtifactError, first_line
from llm_cls.locks import BriefLock
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.metrics.selection import MONITORS, Monitor
from llm_cls.runs.layout import JOURNAL
from llm_cls.runs.sweep import is_sweep

_NO_INFORMATION = 1e-3  # nats; networks before their first step have ten times as much


class Pruner:
    """Decides after each epoch whether a run continues."""

    def __init__(
        self, config: PrunerConfig, run: Path, max_epochs: int, data: str = "", monitor: Monitor = MONITORS["f1"]
    ) -> None:
        """Joins the study of the sweep that ``run`` belongs to; outside a sweep there is none.

        Args:
            config: The rules.
            run: The run directory.
            max_epochs: Planned epochs of the run.
            data: Identifies the texts of the run: scores on other texts are not comparable.
            monitor: The score that is compared; runs with another one belong to another study.

        Raises:
            ArtifactError: The journal is damaged.
        """
        self._journal = run.parent / JOURNAL
        self._config, self._name, self._max_epochs, self._monitor = config, run.name, max_epochs, monitor
        self._trial: Any = None
        self._study: Any = None
        self._reported: set[int] = set()
        if config.name != "none" and is_sweep(run.parent):
            with self._errors():
                by = "" if monitor.name == "f1" else f" by {monitor.name}"
                study = f"{max_epochs} epochs {data}".strip() + by
                self._study = _open_study(config, self._journal, max_epochs, study, monitor)
                self._trial, self._reported = _unfinished_trial(self._study, self._name)

    def should_stop(self, epoch: int, val: Evaluation) -> bool:
        """Whether the run ends with ``epoch`` (from 1), whose val scores are ``val``."""
        prune = False
        if self._study is not None and val.finite:
            with self._errors():
                if self._trial is None:
                    self._trial = self._study.ask()
                    self._trial.set_user_attr("run", self._name)
                if epoch not in self._reported:  # a kill may have come before the checkpoint
                    self._trial.report(val.value(self._monitor.name), epoch)
                prune = self._trial.should_prune() or self._lags_behind(epoch, val)
        if epoch == self._max_epochs:
            return False
        return prune or (self._config.stop_collapsed and has_collapsed(val))

    def _lags_behind(self, epoch: int, val: Evaluation) -> bool:
        """Whether this run's best val score is further behind the best of the others than training still changes.

        Optuna's rules rank runs, which says little while many are equally good, and compare with finished runs only.
        The gap to the best run separates hopeless runs from slow ones early, with any number of concurrent runs. A run
        that has trained for fewer epochs counts as well: its best score can only rise.

        A gap within two standard errors is ignored; see ``_standard_error``.
        """
        if self._config.max_lag is None or epoch < 2:  # the first epoch is the warm-up
            return False
        goodness = self._monitor.goodness
        own: float | None = None  # the best of this run
        others: list[float] = []  # and of each other
        for trial in self._study.get_trials(deepcopy=False):
            reported = [value for step, value in trial.intermediate_values.items() if step <= epoch]
            if not reported:
                continue
            if trial.number == self._trial.number:
                own = max(reported, key=goodness)
            elif trial.user_attrs.get("run") != self._name:  # not an earlier trial of this run
                others.append(max(reported, key=goodness))
        if own is None or not others:
            return False
        top = max(others, key=goodness)
        allowed = abs(top) * self._config.max_lag * (1 - epoch / self._max_epochs) ** 2
        return goodness(own) < goodness(top) - max(allowed, 2 * self._standard_error(top, val))

    def _standard_error(self, top: float, val: Evaluation) -> float:
        """Of the best score ``top``, on the texts of ``val``.

        That of a share f of n texts is sqrt(f (1 - f) / n), and a correlation is twice a share minus 1. That of a mean
        loss is the standard deviation of the texts' losses over sqrt(n); those of the best run are not here, so they
        are taken from this one.
        """
        n_texts = len(val.labels)
        if self._monitor.lowest is None:
            return float(np.std(val.losses) / math.sqrt(n_texts))
        return math.sqrt((top - self._monitor.lowest) * (1 - top) / n_texts)

    def end(self, val_score: float | None, pruned: bool) -> None:
        """Completes the trial, so that other runs are compared with it."""
        if self._trial is None:
            return
        from optuna.trial import TrialState

        with self._errors():
            if val_score is None or pruned:
                state = TrialState.PRUNED if pruned else TrialState.FAIL
                self._study.tell(self._trial, state=state, skip_if_finished=True)
            else:
                self._study.tell(self._trial, val_score, skip_if_finished=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns Optuna's errors about a damaged journal into one that names the file."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
            raise ArtifactError(
                f"{self._journal} is damaged: {type(error).__name__}: {first_line(error)}. Remove it and "
                "start the sweep again: finished runs are kept, and the pruner starts afresh"
            ) from error


def has_collapsed(val: Evaluation) -> bool:
    """Whether the network predicts the same probabilities for every text, so that it has stopped learning.

    A run that has learnt little yet may also predict one label only, and still win in the end; but its probabilities
    differ from text to text. So the mutual information of text and predicted label in nats, the mean over the texts of
    KL(p(label | text) || p(label)), must vanish as well.
    """
    if not val.finite or len(set(val.predictions.tolist())) > 1:
        return False
    p = np.maximum(val.probabilities.astype(np.float64), 1e-30)
    information = (p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()
    return bool(information < _NO_INFORMATION)


def _open_study(config: PrunerConfig, journal: Path, max_epochs: int, name: str, monitor: Monitor) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if config.name == "median":
        first = math.ceil(config.warmup_fraction * max_epochs) + 1  # Optuna includes the epoch at which it may prune
        rule: Any = optuna.pruners.MedianPruner(n_startup_trials=config.startup_runs, n_warmup_steps=first)
    else:
        rule = optuna.pruners.HyperbandPruner(config.min_epochs, max_epochs, config.reduction_factor)
    # Optuna's own locks stay behind when their holder dies; the system releases this one.
    lock: Any = BriefLock(journal.with_name(f".{journal.name}.lock"))
    _drop_torn_line(journal, lock)
    direction: Literal["maximize", "minimize"] = "maximize" if monitor.larger_is_better else "minimize"
    return optuna.create_study(
        study_name=name, direction=direction, load_if_exists=True, pruner=rule,
        sampler=optuna.samplers.RandomSampler(),  # never used: Hydra has chosen the values
        storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=lock)),
    )  # fmt: skip


def _drop_torn_line(journal: Path, lock: Any) -> None:
    """Removes an incomplete last line, which a full disk leaves: the next line would be appended to it."""
    with lock:
        text = journal.read_bytes() if journal.is_file() else b""
        if text and not text.endswith(b"\n"):
            os.truncate(journal, text.rfind(b"\n") + 1)


def _unfinished_trial(study: Any, name: str) -> tuple[Any, set[int]]:
    """The trial of the run ``name`` before an interruption, and its reported epochs."""
    import optuna

    for known in reversed(study.get_trials(deepcopy=False)):
        if known.user_attrs.get("run") == name and known.state == optuna.trial.TrialState.RUNNING:
            return optuna.trial.Trial(study, known._trial_id), set(known.intermediate_values)
    return None, set()
