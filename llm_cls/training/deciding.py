"""The label of a scored text where it is not simply the most probable one."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llm_cls.config.decisions import DecisionArguments
from llm_cls.errors import ConfigError
from llm_cls.metrics.decisions import cheapest, exact_interval
from llm_cls.runs.evaluations import DecisionRecord
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
