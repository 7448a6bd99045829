"""``python -m llm_cls.predict run=DIR input=FILE output=FILE``: label new texts with a finished run."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_cls.cli import quiet_libraries, run_command, say
from llm_cls.config.arguments import read_arguments
from llm_cls.config.commands import PredictArguments
from llm_cls.files import atomic_path, check_output, write_jsonl
from llm_cls.training.launch import check_launcher


def main() -> None:
    """The command."""
    if (arguments := read_arguments(PredictArguments, "predict")) is None:
        return
    check_launcher()
    check_output(arguments.output)

    from llm_cls.training.prediction import predict_file  # torch takes seconds to import

    quiet_libraries()
    ids, labels, probabilities = predict_file(arguments)
    write_labels(arguments.output, ids, labels, probabilities)
    say(f"Labels of {len(ids)} text{'s' * (len(ids) != 1)}: {arguments.output}")


def write_labels(path: Path, ids: Sequence[str], labels: Sequence[str], probabilities: Any) -> None:
    """Writes a row per text: id, prediction, and the probability of each label.

    Args:
        path: Its suffix decides the format.
        ids: Id of each text.
        labels: All labels, in the order of the columns of ``probabilities``.
        probabilities: Shape ``(n, n_labels)``.
    """
    best = [labels[i] for i in probabilities.argmax(axis=1)] if len(ids) else []
    rows = zip(ids, best, probabilities.tolist(), strict=True)
    if path.suffix == ".jsonl":
        write_jsonl(
            path,
            (
                {"id": i, "prediction": label, "probabilities": dict(zip(labels, p, strict=True))}
                for i, label, p in rows
            ),
        )
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(["id", "prediction", *(f"p({label})" for label in labels)])
        writer.writerows([i, label, *p] for i, label, p in rows)


if __name__ == "__main__":
    sys.exit(run_command(main))
