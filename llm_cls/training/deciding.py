"""The label of a scored text where it is not simply the most probable one."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llm_cls.config.decisions import DecisionArguments
from llm_cls.errors import ConfigError
from llm_cls.metrics.decisions import cheapest, exact_interval
from llm_cls.runs.calibration import ConformalSets
from llm_cls.runs.evaluations import DecisionRecord, EvaluatedSets
from llm_cls.training.loaded import OpenedRun

Decider = Callable[[npt.NDArray[np.float64]], list[str]]  # log-probabilities, shape (n, n_labels), to n labels


def none_label(arguments: DecisionArguments, opened: OpenedRun) -> str:
    """The label of texts on which the classifier abstains.

    Raises:
        ConfigError: It is a label of the run.
    """
    name = arguments.none_label or (opened.calibration.none if opened.calibration is not None else "none")
    if name in opened.labels:
        raise ConfigError(f"none_label={name} is a label of the run. Give another name")
    return name


def threshold_of(arguments: DecisionArguments, opened: OpenedRun) -> float | None:
    """The confidence below which texts are not labelled; None where every text is.

    Raises:
        ConfigError: The run has no policy, or none that keeps its target.
    """
    if isinstance(arguments.decide, float):
        return arguments.decide
    if arguments.decide != "policy":
        return None
    policy = None if opened.calibration is None else opened.calibration.policy
    command = f"Run python -m llm_cls.calibrate run={opened.path} target_accuracy="
    if policy is None:
        raise ConfigError(f"decide=policy: the calibration of run={opened.path} has no threshold. {command}0.95")
    if policy.threshold is None:
        raise ConfigError(
            f"decide=policy: no threshold keeps target_accuracy={policy.target_accuracy:g} in run={opened.path}. "
            f"{command}... with a lower one"
        )
    return policy.threshold


def decider(arguments: DecisionArguments, opened: OpenedRun) -> Decider | None:
    """The rule that the arguments ask for; None for the most probable label.

    Raises:
        ConfigError: The calibration of the run lacks what the rule needs.
    """
    if arguments.decide == "argmax":
        return None
    labels = opened.labels
    none = none_label(arguments, opened)
    if arguments.decide == "cost":
        costs = None if opened.calibration is None else opened.calibration.costs
        if costs is None:
            raise ConfigError(
                f"decide=cost: the calibration of run={opened.path} has no costs. "
                f"Run python -m llm_cls.calibrate run={opened.path} cost=FILE"
            )
        matrix = np.array(costs.matrix)
        names = [*labels, *([none] if len(costs.decisions) > len(labels) else [])]
        return lambda found: [names[i] for i in cheapest(np.exp(found), matrix).tolist()]
    threshold = threshold_of(arguments, opened)

    def decide(found: npt.NDArray[np.float64]) -> list[str]:
        confident = np.exp(found.max(axis=1)) >= threshold
        return [labels[i] if c else none for i, c in zip(found.argmax(axis=1).tolist(), confident, strict=True)]

    return decide


def conformal_sets(arguments: DecisionArguments, opened: OpenedRun) -> ConformalSets | None:
    """The sets of labels that the arguments ask for; None where they do not.

    Raises:
        ConfigError: The calibration of the run has none.
    """
    if not arguments.sets:
        return None
    found = None if opened.calibration is None else opened.calibration.sets
    if found is None:
        raise ConfigError(
            f"sets=true: the calibration of run={opened.path} has no sets. "
            f"Run python -m llm_cls.calibrate run={opened.path} alpha=0.1"
        )
    return found


def label_sets(
    labels: Sequence[str], log_probabilities: npt.NDArray[np.float64], sets: ConformalSets
) -> list[list[str]]:
    """All labels with at least the probability of the sets, the most probable first; a set may be empty.

    Args:
        labels: In the order of the columns.
        log_probabilities: Calibrated, shape ``(n, n_labels)``.
        sets: Of the calibration.
    """
    member = np.exp(log_probabilities) >= sets.level
    order = np.argsort(-log_probabilities, axis=1, kind="stable").tolist()
    return [[labels[i] for i in row if member[n, i]] for n, row in enumerate(order)]


def summarize_sets(pairs: Sequence[tuple[str, Sequence[str]]], sets: ConformalSets) -> EvaluatedSets:
    """Coverage and size of sets.

    Args:
        pairs: The true label, which the run knows, and the set of each text; at least one.
        sets: Of the calibration.
    """
    covered, n = sum(label in found for label, found in pairs), len(pairs)
    return EvaluatedSets(
        alpha=sets.alpha,
        level=sets.level,
        n=n,
        mean_size=sum(len(found) for _, found in pairs) / n,
        empty=sum(not found for _, found in pairs),
        coverage=covered / n,
        interval=list(exact_interval(covered, n)),
    )


def summarize(
    rule: str, none: str, labels: Sequence[str], decided: Sequence[str], known: npt.NDArray[np.bool_]
) -> DecisionRecord:
    """Coverage and selective accuracy of decisions.

    Args:
        rule: Name of the rule.
        none: The label of texts on which it abstains.
        labels: The true labels.
        decided: The decisions.
        known: Whether the run knows the true label, shape ``(n,)``.
    """
    pairs = [(label, name) for label, name, scored in zip(labels, decided, known, strict=True) if scored]
    unknown = [name for name, scored in zip(decided, known, strict=True) if not scored]
    labelled = sum(name != none for _, name in pairs)
    right = sum(name == label for label, name in pairs)
    return DecisionRecord(
        rule=rule,
        none=none,
        n=len(pairs),
        labelled=labelled,
        right=right,
        coverage=labelled / len(pairs),
        accuracy=right / labelled if labelled else None,
        accuracy_ci95=list(exact_interval(right, labelled)) if labelled else None,
        unknown=len(unknown),
        unknown_none=sum(name == none for name in unknown),
    )
