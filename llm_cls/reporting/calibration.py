"""The calibration of a run and its decisions, fitted on val and checked on test. No model is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_cls.config.decisions import CalibrateArguments
from llm_cls.errors import ArtifactError, ConfigError, DataError
from llm_cls.files import sha256_file
from llm_cls.metrics import calibration, decisions
from llm_cls.metrics.calibration import Quality
from llm_cls.metrics.decisions import Flags
from llm_cls.metrics.scores import Floats
from llm_cls.metrics.statistics import Ints
from llm_cls.reporting.costs import mean_cost, read_costs
from llm_cls.runs import layout
from llm_cls.runs.calibration import (
    BeforeAfter,
    CalibrationRecord,
    ConformalSets,
    Costs,
    FoundOutOfScope,
    Kept,
    OutOfScope,
    Policy,
    QualityRecord,
    SetsOfSplit,
    write_calibration,
)
from llm_cls.runs.predictions import read_predictions
from llm_cls.runs.record import now, versions
from llm_cls.runs.state import complete_result
from llm_cls.runs.verify import verify_result

_ASSUMES = (
    "It assumes that the texts of val and of use are exchangeable and that val was not used before; val has chosen the "
    "epoch and the calibration, so that the check on test counts."
)


@dataclass(frozen=True)
class Split:
    """A split with calibrated log-probabilities.

    Attributes:
        name: "val" or "test".
        raw: Log-probabilities as the run has recorded them, shape ``(n, n_labels)``.
        log_probabilities: The calibrated ones.
        labels: Class indices, shape ``(n,)``.
    """

    name: str
    raw: Floats
    log_probabilities: Floats
    labels: Ints

    @property
    def probabilities(self) -> Floats:
        """The calibrated probabilities."""
        p: Floats = np.exp(self.log_probabilities)
        return p

    @property
    def predictions(self) -> Ints:
        """The most probable label of each text."""
        best: Ints = self.log_probabilities.argmax(axis=1)
        return best

    @property
    def confidences(self) -> Floats:
        """The probability of the most probable label."""
        p: Floats = np.exp(self.log_probabilities.max(axis=1))
        return p

    @property
    def correct(self) -> Flags:
        """Whether the most probable label is right."""
        flags: Flags = self.predictions == self.labels
        return flags


def calibrate(arguments: CalibrateArguments) -> tuple[CalibrationRecord, list[Split]]:
    """Calibrates a finished run and stores the result in it.

    Returns:
        The content of ``calibration.json``, and val and test, as far as the run has them.

    Raises:
        LlmClsError: The run is not finished or is damaged, or an argument does not fit it.
    """
    run = arguments.run
    record, metrics = complete_result(run)
    if metrics.val.f1 is None:
        raise ArtifactError(f"run={run} has no probabilities: its scores were not finite. Train it again")
    verify_result(run, record, metrics)
    names = record.data.labels
    if arguments.none_label in names:
        raise ConfigError(f"none_label={arguments.none_label} is a label of the run. Give another name")
    if arguments.oos is not None and arguments.oos not in names:
        raise ConfigError(f"oos={arguments.oos} is no label of the run. It has {', '.join(map(repr, names[:10]))}")
    costs = None if arguments.cost is None else read_costs(arguments.cost, names, arguments.none_label)
    files = {name: run / layout.PREDICTIONS / f"{name}.jsonl" for name in ("val", "test")}
    digests = {name: sha256_file(path) for name, path in files.items() if path.exists()}
    if "val" not in digests:
        raise ArtifactError(f"{files['val']} is missing. Restore it, or train the run again")
    found = {name: read_predictions(run, name, names) for name in digests}
    raw = {name: (calibration.logs(texts.probabilities), texts.labels) for name, texts in found.items()}
    if len(raw["val"][1]) < 2:
        raise DataError(f"run={run} has {len(raw['val'][1])} val text; a calibration needs at least 2")
    choice = calibration.choose(*raw["val"], arguments.method)
    scaling = calibration.fit(*raw["val"], choice.method)
    splits = [Split(name, p, scaling.apply(p), labels) for name, (p, labels) in raw.items()]
    by_name = {split.name: split for split in splits}
    policy = _policy(arguments, by_name)
    sealed = write_calibration(
        run,
        CalibrationRecord(
            schema_version=1,
            run_id=record.run_id,
            labels=names,
            method=choice.method,
            reason=choice.reason,
            temperature=scaling.temperature,
            biases=list(scaling.biases),
            predictions=digests,
            scores={
                split.name: _before_after(split, choice.held_out if split.name == "val" else split.log_probabilities)
                for split in splits
            },
            none=arguments.none_label,
            policy=policy,
            sets=None if arguments.alpha is None else _sets(arguments.alpha, by_name),
            costs=None if costs is None else _costs(costs, by_name),
            out_of_scope=None if arguments.oos is None else _out_of_scope(names, arguments.oos, by_name, policy),
            versions=versions("llm_cls", "numpy", "scipy"),
            created_at=now(),
        ),
    )
    return sealed, splits


def _before_after(split: Split, after: Floats) -> BeforeAfter:
    before, calibrated = (calibration.quality(p, split.labels) for p in (split.raw, after))
    return BeforeAfter(n=len(split.labels), before=_quality(before), after=_quality(calibrated))


def _quality(found: Quality) -> QualityRecord:
    return QualityRecord(ece=list(found.ece), brier=list(found.brier), log_loss=list(found.log_loss))


def _policy(arguments: CalibrateArguments, splits: Mapping[str, Split]) -> Policy | None:
    if (target := arguments.target_accuracy) is None:
        return None
    val, test = splits["val"], splits.get("test")
    threshold = decisions.controlled_threshold(val.confidences, val.correct, target, arguments.delta)
    kept = [None if threshold is None or split is None else _kept(split, threshold) for split in (val, test)]
    on_test = kept[1]
    guarantee = (
        f"With a probability of at least {1 - arguments.delta:g} over the draw of the val texts, at least {target:g} "
        f"of the labelled texts are right. {_ASSUMES} It also assumes that a higher confidence does not mean more "
        "errors."
    )
    return Policy(
        target_accuracy=target,
        delta=arguments.delta,
        threshold=threshold,
        guarantee=guarantee,
        val=kept[0],
        test=on_test,
        target_kept_on_test=None if on_test is None or on_test.accuracy is None else on_test.accuracy >= target,
    )


def _kept(split: Split, threshold: float) -> Kept:
    found = decisions.abstain(split.confidences, split.correct, threshold)
    interval = None if found.interval is None else list(found.interval)
    return Kept(
        n=found.n,
        kept=found.kept,
        right=found.right,
        coverage=found.coverage,
        accuracy=found.accuracy,
        interval=interval,
    )


def _sets(alpha: float, splits: Mapping[str, Split]) -> ConformalSets:
    val, test = splits["val"], splits.get("test")
    level = decisions.conformal_level(val.probabilities, val.labels, alpha)
    guarantee = f"The set of a new text has its true label with a probability of at least {1 - alpha:g}. {_ASSUMES}"
    of_test = None if test is None else _sets_of(test, level)
    return ConformalSets(alpha=alpha, level=level, guarantee=guarantee, val=_sets_of(val, level), test=of_test)


def _sets_of(split: Split, level: float) -> SetsOfSplit:
    found = decisions.sets_at(split.probabilities, split.labels, level)
    interval = list(decisions.exact_interval(found.covered, found.n))
    return SetsOfSplit(
        n=found.n, mean_size=found.mean_size, empty=found.empty, coverage=found.coverage, interval=interval
    )


def _costs(costs: tuple[Sequence[str], Floats], splits: Mapping[str, Split]) -> Costs:
    names, matrix = costs
    arg_max, least = {}, {}
    for name, split in splits.items():
        arg_max[name] = mean_cost(matrix, split.labels, split.predictions)
        least[name] = mean_cost(matrix, split.labels, decisions.cheapest(split.probabilities, matrix))
    return Costs(decisions=list(names), matrix=matrix.tolist(), arg_max=arg_max, least=least)


def _out_of_scope(names: Sequence[str], label: str, splits: Mapping[str, Split], policy: Policy | None) -> OutOfScope:
    """The label on test, with the threshold of best F1 on val."""
    index, val = names.index(label), splits["val"]
    shown = splits.get("test", val)
    for split in (val, shown):
        if not (split.labels == index).any():
            raise DataError(f"oos={label}: no {split.name} text has this label, so that its recall is unknown")

    def at(threshold: float, split: Split) -> FoundOutOfScope:
        found = decisions.out_of_scope(split.confidences, split.predictions == index, split.labels == index, threshold)
        return FoundOutOfScope(threshold=threshold, recall=found[0], precision=found[1])

    def f1(found: FoundOutOfScope) -> float:
        return 2 * found.recall * found.precision / max(found.recall + found.precision, 1e-300)

    thresholds = decisions.out_of_scope_thresholds(val.confidences, val.predictions == index)
    best = max((at(threshold, val) for threshold in thresholds.tolist()), key=f1).threshold
    chosen = None if policy is None else policy.threshold
    return OutOfScope(
        label=label,
        arg_max=at(0.0, shown),
        best=at(best, shown),
        policy=None if chosen is None else at(chosen, shown),
    )
