"""Ends the runs of a sweep that cannot become the best: Optuna's rules on the val score of each epoch, and three more.

Every run of a sweep is a trial of one Optuna study. Its journal lies in the folder of the sweep, where runs of other
processes and machines find it. A resumed run continues its trial.
"""

import base64
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm_cls.config.schema import PrunerConfig
from llm_cls.errors import ArtifactError, first_line
from llm_cls.locks import BriefLock
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.metrics.paired import has_larger_loss, is_worse
from llm_cls.metrics.scores import SCORES
from llm_cls.metrics.selection import MONITORS, Monitor
from llm_cls.runs.layout import JOURNAL
from llm_cls.runs.sweep import is_sweep, read_plan

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
        self._comparisons = 1
        if config.name != "none" and is_sweep(run.parent):
            self._comparisons = max(1, len(read_plan(run.parent)) - 1) * max(1, max_epochs - 2)
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
                    if self._config.alpha is not None:
                        self._trial.set_user_attr(f"val {epoch}", outputs(val, self._monitor))
                    self._trial.report(val.value(self._monitor.name), epoch)
                prune = self._trial.should_prune() or self._lags_behind(epoch, val)
                prune = prune and (self._config.alpha is None or self._is_worse(epoch, val, self._config.alpha))
        if epoch == self._max_epochs:
            return False
        return prune or (self._config.stop_collapsed and has_collapsed(val))

    def _lags_behind(self, epoch: int, val: Evaluation) -> bool:
        """Whether this run's best val score is further behind the best of the others than training still changes.

        Optuna's rules rank runs, which says little while many are equally good, and compare with finished runs only.
        The gap to the best run separates hopeless runs from slow ones early, with any number of concurrent runs. A run
        that has trained for fewer epochs counts as well: its best score can only rise.

        A gap within two standard errors is ignored (see ``_standard_error``), or one that ``_is_worse`` refuses.
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
        noise = 2 * self._standard_error(top, val) if self._config.alpha is None else 0.0
        return goodness(own) < goodness(top) - max(allowed, noise)

    def _is_worse(self, epoch: int, val: Evaluation, alpha: float) -> bool:
        """Whether this run is significantly worse than the one that is the best after as many epochs.

        Over all pairs of the best run with another one and all epochs, the best run is found to be worse with a
        probability of at most ``alpha`` (Bonferroni); so it does not matter that the other one was chosen by its score.
        """
        others = {
            trial.user_attrs[f"val {epoch}"]: self._monitor.goodness(trial.intermediate_values[epoch])
            for trial in self._study.get_trials(deepcopy=False)
            if trial.user_attrs.get("run") != self._name
            and epoch in trial.intermediate_values
            and f"val {epoch}" in trial.user_attrs
        }
        if not others:
            return False
        best = read_outputs(max(others, key=others.__getitem__), self._monitor)
        level = alpha / self._comparisons
        if self._monitor.name == "loss":
            return has_larger_loss(val.losses, best, level)
        score, n_labels = SCORES[self._monitor.name], val.probabilities.shape[1]
        return is_worse(val.labels, val.predictions, best, n_labels, score, level)

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


def outputs(val: Evaluation, monitor: Monitor) -> str:
    """What the paired test needs of each text, as the journal holds it: its predicted label, or its loss."""
    values = val.losses.astype("<f4") if monitor.name == "loss" else val.predictions.astype("<u4")
    return base64.b64encode(zlib.compress(values.tobytes())).decode()


def read_outputs(text: str, monitor: Monitor) -> Any:
    """The array that ``outputs`` has written."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4" if monitor.name == "loss" else "<u4")
    return values.astype(np.float64 if monitor.name == "loss" else np.int64)


def _open_study(config: PrunerConfig, journal: Path, max_epochs: int, name: str, monitor: Monitor) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if config.name == "median":
        first = math.ceil(config.warmup_fraction * max_epochs) + 1  # Optuna includes the epoch at which it may prune
        rule: Any = optuna.pruners.MedianPruner(n_startup_trials=config.startup_runs, n_warmup_steps=first)
    elif config.name == "paired":
        rule = optuna.pruners.NopPruner()  # _lags_behind and _is_worse decide
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
