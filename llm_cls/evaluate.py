"""``python -m llm_cls.evaluate run=DIR data.file=FILE``: score a finished run on other labelled texts."""

import sys

from llm_cls.cli import printable, quiet_libraries, run_command, say, shown_path
from llm_cls.config.arguments import read_arguments
from llm_cls.config.scoring import EvaluateArguments
from llm_cls.data.labels import named
from llm_cls.metrics.percent import percent
from llm_cls.runs.evaluations import EvaluationRecord
from llm_cls.training.launch import check_launcher

_SHOWN = 5  # unknown labels


def main() -> None:
    """The command."""
    if (arguments := read_arguments(EvaluateArguments, "evaluate")) is None:
        return
    check_launcher()

    from llm_cls.training.evaluation import evaluate_files  # torch takes seconds to import

    quiet_libraries()
    for folder, record in evaluate_files(arguments):
        say(printable(summary(record)))
        for line in remarks(record):
            say(printable(f"  {line}"))
        say(f"  {shown_path(folder)}")


def summary(record: EvaluationRecord) -> str:
    """The scores of a file in one line."""
    scores = record.scores
    assert scores.f1 is not None and scores.accuracy is not None and scores.f1_ci95 is not None
    low, high = scores.f1_ci95
    return (
        f"{record.file.name}: F1 {percent(scores.f1)} %   accuracy {percent(scores.accuracy)} %   ({scores.n} texts; "
        f"95 % interval of F1: {percent(low)} to {percent(high)})"
    )


def remarks(record: EvaluationRecord) -> list[str]:
    """What another rule decides, and what the scores do not cover, a line each."""
    lines = []
    if (found := record.decision) is not None:
        share = "no text" if found.accuracy is None else f"accuracy {percent(found.accuracy)} %"
        if found.accuracy_ci95 is not None:
            share += f" (95 % interval: {percent(found.accuracy_ci95[0])} to {percent(found.accuracy_ci95[1])})"
        lines.append(
            f"decide={found.rule}: {found.labelled} of {found.n} texts labelled ({percent(found.coverage)} %), "
            f"{share}; the others are {found.none!r}"
        )
        if found.unknown:
            lines.append(f"Of {found.unknown} texts with unknown labels, {found.unknown_none} are {found.none!r}")
    if (sets := record.sets) is not None:
        low, high = sets.interval
        lines.append(
            f"Sets for alpha={sets.alpha:g}: {sets.mean_size:.2f} labels on average, true label in "
            f"{percent(sets.coverage)} % (95 % interval: {percent(low)} to {percent(high)}); {sets.empty} of {sets.n} "
            "empty"
        )
    if record.unknown_labels:
        n = sum(record.unknown_labels.values())
        names = [f"{label!r} {count}" for label, count in list(record.unknown_labels.items())[:_SHOWN]]
        more = f" and {len(record.unknown_labels) - _SHOWN} more" if len(record.unknown_labels) > _SHOWN else ""
        lines.append(f"Not scored: {n} of {record.rows} texts have labels unknown to the run: {', '.join(names)}{more}")
    if record.without_text:
        reasons = ", ".join(f"{reason} {count}" for reason, count in record.without_text.items())
        lines.append(f"Not scored: {sum(record.without_text.values())} of {record.rows} rows have no text: {reasons}")
    if record.absent_labels:
        lines.append(f"Labels without texts, which count as 0 in macro averages: {named(record.absent_labels)}")
    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
