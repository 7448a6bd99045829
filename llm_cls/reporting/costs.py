"""Cost matrices of decisions, as people write them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from llm_cls.errors import DataError, first_line
from llm_cls.files import read_regular
from llm_cls.metrics.scores import Floats
from llm_cls.metrics.statistics import Ints

_MAX_BYTES = 16 * 2**20


def read_costs(path: Path, labels: Sequence[str], none: str) -> tuple[list[str], Floats]:
    """The cost of each decision for each true label.

    Args:
        path: JSON or YAML, ``{true: {decision: cost}}``. A cost that is not given is 0 for the true label and 1 for
            another.
        labels: All labels.
        none: The decision to abstain; it is one if it has a cost for any label.

    Returns:
        The decisions, and costs of shape ``(n_labels, n_decisions)``.

    Raises:
        DataError: The file is not of this form.
    """
    try:
        given = yaml.load(read_regular(path, _MAX_BYTES), yaml.CSafeLoader)  # JSON is YAML
    except OSError as error:
        raise DataError(f"cost={path} could not be read: {error.strerror}. Check the path") from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"cost={path} is neither JSON nor YAML: {first_line(error)}") from None
    form = f"cost={path} must be of the form {{true: {{decision: cost}}}}"
    if not isinstance(given, dict) or not all(isinstance(row, dict) for row in given.values()):
        raise DataError(f"{form}, a mapping of mappings")
    rows = {str(true): {str(decision): cost for decision, cost in row.items()} for true, row in given.items()}
    names = [*labels, *([none] if any(none in row for row in rows.values()) else [])]
    index = {name: i for i, name in enumerate(names)}
    costs = 1 - np.eye(len(labels), len(names))
    for true, row in rows.items():
        if true not in labels:
            raise DataError(f"{form}: {true!r} is no label of the run")
        for decision, cost in row.items():
            if decision not in index:
                raise DataError(f"{form}: the decision {decision!r} is neither a label of the run nor {none!r}")
            if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost <= 1e12:
                raise DataError(f"{form}: a cost must be a number from 0 to 1e12, got {cost!r}")
            costs[index[true], index[decision]] = cost
    return names, costs


def mean_cost(costs: Floats, labels: Ints, decisions: Ints) -> float:
    """The mean cost per text of decisions."""
    return float(costs[labels, decisions].mean())
