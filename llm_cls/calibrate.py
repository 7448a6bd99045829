"""``python -m llm_cls.calibrate run=DIR``: calibrate a finished run, and fit when it abstains."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llm_cls.cli import printable, run_command, say, shown_path
from llm_cls.config.arguments import read_arguments
from llm_cls.config.decisions import CalibrateArguments
from llm_cls.files import check_output
from llm_cls.runs import layout

if TYPE_CHECKING:
    from llm_cls.runs.calibration import CalibrationRecord

_NAMES = {"ece": "calibration error", "brier": "Brier score", "log_loss": "log loss"}


def main() -> None:
    """The command."""
    if (arguments := read_arguments(CalibrateArguments, "calibrate")) is None:
        return

    from llm_cls.reporting.calibration import calibrate  # numpy need not be imported for the help
    from llm_cls.reporting.curves import write_curves

    path = arguments.run / layout.CALIBRATION
    if arguments.run.is_dir():
        check_output(path)
    record, splits = calibrate(arguments)
    for line in lines(record):
        say(printable(line))
    oos = None if arguments.oos is None else record.labels.index(arguments.oos)
    for file in (path, *write_curves(arguments.run, splits, oos)):
        say(f"  {printable(shown_path(file))}")


def lines(record: "CalibrationRecord") -> Iterator[str]:
    """What was fitted and what it does, a line each."""
    yield f"Method: {record.method} ({record.reason})"
    yield f"Temperature: {record.temperature:.4g}" + (", with a bias for each label" if any(record.biases) else "")
    for split, scores in record.scores.items():
        how = "cross-validated" if split == "val" else "not fitted on them"
        yield f"{split}, {scores.n} texts ({how}), before -> after, with 95 % intervals:"
        for key, name in _NAMES.items():
            before, after = (_interval(getattr(side, key)) for side in (scores.before, scores.after))
            yield f"  {name}: {before} -> {after}"
    if (policy := record.policy) is not None:
        if policy.threshold is None:
            yield (
                f"Threshold: none keeps an accuracy of {policy.target_accuracy:g} with a probability of "
                f"{1 - policy.delta:g} on these val texts. Lower target_accuracy, or raise delta"
            )
        else:
            yield f"Threshold: {policy.threshold:.6g}. {policy.guarantee}"
        for split, kept in (("val", policy.val), ("test", policy.test)):
            if kept is not None:
                share = "no text" if kept.accuracy is None else f"accuracy {kept.accuracy:.4f}{_bounds(kept.interval)}"
                yield f"  {split}: {kept.kept} of {kept.n} texts labelled ({kept.coverage:.1%}), {share}"
        if policy.target_kept_on_test is not None and policy.test is not None and policy.test.interval is not None:
            inside = policy.target_accuracy <= policy.test.interval[1]
            missed = "no, but the 95 % interval includes it" if inside else "NO"
            yield f"  Target kept on test: {'yes' if policy.target_kept_on_test else missed}"
    if (sets := record.sets) is not None:
        yield f"Sets: all labels with a probability of at least {sets.level:.6g}. {sets.guarantee}"
        for split, found in (("val", sets.val), ("test", sets.test)):
            if found is not None:
                yield (
                    f"  {split}: {found.mean_size:.2f} labels on average, true label in {found.coverage:.2%}"
                    f"{_bounds(found.interval)}; {found.empty} of {found.n} empty"
                )
    if (costs := record.costs) is not None:
        for split, cost in costs.arg_max.items():
            yield f"Mean cost on {split}: {cost:.4f} by arg max, {costs.least[split]:.4f} by least expected cost"
    if (oos := record.out_of_scope) is not None:
        rules = (("arg max", oos.arg_max), ("best F1 on val", oos.best), ("policy", oos.policy))
        for name, at in rules:
            if at is not None:
                yield (
                    f"Out of scope ({oos.label!r}), {name}: recall {at.recall:.4f}, precision {at.precision:.4f} at "
                    f"threshold {at.threshold:.4g}"
                )


def _interval(values: list[float | None]) -> str:
    value, low, high = (float("inf") if value is None else value for value in values)
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def _bounds(interval: list[float] | None) -> str:
    return "" if interval is None else f" (95 %: {interval[0]:.4f} to {interval[1]:.4f})"


if __name__ == "__main__":
    sys.exit(run_command(main))
