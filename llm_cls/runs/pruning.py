"""Ends the runs of a sweep that cannot become the best: Optuna's rules on the val F1 of each epoch, and two more.

Every run of a sweep is a trial of one Optuna study. Its journal lies in the folder of the sweep, where runs of other
processes and machines find it. A resumed run continues its trial.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from llm_cls.config.schema import PrunerConfig
from llm_cls.errors import ArtifactError, first_line
from llm_cls.locks import BriefLock
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.runs.layout import JOURNAL
from llm_cls.runs.sweep import is_sweep

_NO_INFORMATION = 1e-3  # nats; networks before their first step have ten times as much


class Pruner:
    """Decides after each epoch whether a run continues."""

    def __init__(self, config: PrunerConfig, run: Path, max_epochs: int, data: str = "") -> None:
        """Joins the study of the sweep that ``run`` belongs to; outside a sweep there is none.

        Args:
            config: The rules.
            run: The run directory.
            max_epochs: Planned epochs of the run.
            data: Identifies the texts of the run: scores on other texts are not comparable.

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
                if epoch not in self._reported:  # a kill may have come before the checkpoint
                    self._trial.report(val.f1, epoch)
                prune = self._trial.should_prune() or self._lags_behind(epoch, len(val.labels))
        if epoch == self._max_epochs:
            return False
        return prune or (self._config.stop_collapsed and has_collapsed(val))

    def _lags_behind(self, epoch: int, n_texts: int) -> bool:
        """Whether this run's best val F1 is further behind the best of the others than training still changes.

        Optuna's rules rank runs, which says little while many are equally good, and compare with finished runs only.
        The gap to the best run separates hopeless runs from slow ones early, with any number of concurrent runs. A run
        that has trained for fewer epochs counts as well: its best score can only rise.

        A gap within two standard errors is ignored; that of a share f of n texts is sqrt(f (1 - f) / n).
        """
        if self._config.max_lag is None or epoch < 2:  # the first epoch is the warm-up
            return False
        own = top = 0.0  # the best of this run, and of the others
        for trial in self._study.get_trials(deepcopy=False):
            best = max((f1 for step, f1 in trial.intermediate_values.items() if step <= epoch), default=0.0)
            if trial.number == self._trial.number:
                own = best
            elif trial.user_attrs.get("run") != self._name:  # not an earlier trial of this run
                top = max(top, best)
        allowed = top * self._config.max_lag * (1 - epoch / self._max_epochs) ** 2
        return own < top - max(allowed, 2 * math.sqrt(top * (1 - top) / n_texts))

    def end(self, val_f1: float | None, pruned: bool) -> None:
        """Completes the trial, so that other runs are compared with it."""
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


def _open_study(config: PrunerConfig, journal: Path, max_epochs: int, name: str) -> Any:
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
    return optuna.create_study(
        study_name=name, direction="maximize", load_if_exists=True, pruner=rule,
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
