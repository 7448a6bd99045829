"""``python -m llm_cls.predict run=DIR input=FILE output=FILE``: label new texts with a finished run."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import Field

from llm_cls.cli import quiet_libraries, read_arguments, run_command, say
from llm_cls.config.schema import PositiveInt, Section, validate
from llm_cls.errors import ConfigError
from llm_cls.files import atomic_path, check_output

USAGE = "python -m llm_cls.predict run=DIR input=FILE output=FILE [batch_size=32] [accelerator=auto|cpu|gpu]"


class PredictConfig(Section):
    """The arguments of the command.

    Attributes:
        run: Run directory of a finished run.
        input: CSV, TSV, JSONL or Parquet with the columns that the run was trained on.
        output: CSV, TSV or JSONL to write: a row per text, in the input's order.
        batch_size: Texts per forward pass.
        accelerator: "cpu", "gpu", or "auto" for a GPU where there is one.
        text, title, body, id: Column names, where they differ from those of the training data.
    """

    run: Path = Field(examples=["run=outputs/runs/2026-01-31/12-00-00-000000"])
    input: Path = Field(examples=["input=texts.csv"])
    output: Path = Field(examples=["output=labels.csv"])
    batch_size: PositiveInt = 32
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    text: str | None = None
    title: str | None = None
    body: str | None = None
    id: str | None = None


def main() -> None:
    """The command."""
    if (values := read_arguments(USAGE)) is None:
        return
    config = validate(PredictConfig, values)
    if config.output.suffix not in (".csv", ".tsv", ".jsonl"):
        raise ConfigError(f"output must end with .csv, .tsv or .jsonl, got {config.output.name!r}")
    check_output(config.output)

    from llm_cls.training.prediction import predict_file  # torch takes seconds to import

    quiet_libraries()
    ids, labels, probabilities = predict_file(config)
    write_labels(config.output, ids, labels, probabilities)
    say(f"{len(ids)} texts labelled: {config.output}")


def write_labels(path: Path, ids: Sequence[str], labels: Sequence[str], probabilities: Any) -> None:
    """A row per text: id, prediction, and the probability of each label.

    Args:
        path: Its ending gives the format.
        ids: Id of each text.
        labels: All labels, in the order of the columns of ``probabilities``.
        probabilities: Shape ``(n, n_labels)``.
    """
    best = [labels[i] for i in probabilities.argmax(axis=1)] if len(ids) else []
    with _open(path) as file:
        if path.suffix == ".jsonl":
            for i, label, p in zip(ids, best, probabilities.tolist(), strict=True):
                row = {"id": i, "prediction": label, "probabilities": dict(zip(labels, p, strict=True))}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
            writer.writerow(["id", "prediction", *(f"p({label})" for label in labels)])
            for i, label, p in zip(ids, best, probabilities.tolist(), strict=True):
                writer.writerow([i, label, *p])


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


if __name__ == "__main__":
    sys.exit(run_command(main))
