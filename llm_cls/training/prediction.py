"""Labels for new texts from a finished run: a table in, the same table with labels out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from llm_cls.cli import note
from llm_cls.config.scoring import STANDARD, PredictArguments
from llm_cls.data.added_columns import AddedColumns
from llm_cls.data.inputs import TextColumns
from llm_cls.data.rows import Row, TableFormat, iter_rows
from llm_cls.data.standard import StandardOutput, input_file
from llm_cls.data.writers import writer_for
from llm_cls.errors import ConfigError, DataError, RunInterrupted
from llm_cls.files import sha256_file
from llm_cls.runs.calibration import ConformalSets
from llm_cls.runs.partial import PartialFile
from llm_cls.training.deciding import Decider, conformal_sets, decider, label_sets
from llm_cls.training.devices import Hardware
from llm_cls.training.loaded import OpenedRun, open_run, scoring_hardware
from llm_cls.training.scorers import scorer
from llm_cls.training.streams import chunk_rows, chunks_ahead


class Output(Protocol):
    """Where the rows go; ``rows`` of them are there already."""

    rows: int

    def append(self, content: bytes, rows: int) -> None:
        """Writes the bytes of the next ``rows`` rows."""

    def finish(self, make: Callable[[Path, Path], None]) -> None:
        """All rows are written; ``make`` turns the bytes into the table."""

    def close(self) -> None:
        """Releases the output, whether it is finished or not."""


@dataclass(frozen=True)
class Summary:
    """What ``predict`` has done: rows of the output, and those of this call that have no text."""

    rows: int
    without_text: int


def predict(arguments: PredictArguments) -> Summary:
    """Writes the input with labels to the output.

    Raises:
        LlmClsError: The run is not finished or is damaged, or the input or the output is not valid.
        BrokenPipeError: The reader of standard output has gone.
        RunInterrupted: A signal was received. The same command continues.
    """
    opened = open_run(arguments.run, arguments.trust_remote_code, arguments.calibrated)
    decide, sets = decider(arguments, opened), conformal_sets(arguments, opened)
    if arguments.top_k > len(opened.labels):
        raise ConfigError(f"top_k must be <= {len(opened.labels)}, the labels of the run, got {arguments.top_k}")
    hardware = scoring_hardware(arguments.accelerator, arguments.devices)
    columns = TextColumns.of(opened.config, arguments.text, arguments.title, arguments.body, section="")
    with input_file(arguments.input, arguments.format) as source:
        size = chunk_rows(hardware.scoring_batch_size(arguments.batch_size))
        rows = iter_rows(source, TableFormat.of(opened.config.data, arguments.data), size)
        if not (first := next(rows, [])):
            raise DataError(f"{source} has no rows. Give a file with rows")
        columns.check(first[0], source)
        with closing(_output(arguments, opened, hardware, source)) as output:
            try:
                return _predict(arguments, opened, decide, sets, hardware, columns, first, rows, output, source)
            except RunInterrupted as error:
                if not isinstance(output, PartialFile):
                    raise
                raise RunInterrupted(f"{error}. The same command continues after row {output.rows:,}") from None


def _predict(
    arguments: PredictArguments,
    opened: OpenedRun,
    decide: Decider | None,
    sets: ConformalSets | None,
    hardware: Hardware,
    columns: TextColumns,
    first: Sequence[Row],
    rows: Iterator[Sequence[Row]],
    output: Output,
    source: Path,
) -> Summary:
    taken = dict.fromkeys(name for row in first for name in row)
    nested = arguments.output_format == "jsonl"
    added = AddedColumns(opened.labels, arguments.top_k, arguments.probabilities, nested, taken, sets is not None)
    writer = writer_for(arguments.output_format, source)
    header = writer.start(taken | added.types, first)
    if not output.rows and header:
        output.append(header, 0)
    left = _without(chain([first], rows), output.rows)
    without_text = 0
    with (
        tqdm(initial=output.rows, desc="Predicting", unit="text", disable=None) as progress,
        scorer(opened, hardware, hardware.scoring_batch_size(arguments.batch_size), progress) as score,
        closing(chunks_ahead(opened, columns, left)) as chunks,
    ):
        for chunk, log_probabilities in score(chunks):
            decided = None if decide is None else decide(log_probabilities)
            found = None if sets is None else label_sets(opened.labels, log_probabilities, sets)
            labelled = list(added.rows(chunk.rows, chunk.faults, log_probabilities, decided, found))
            output.append(writer.rows(labelled), len(labelled))
            without_text += sum(map(bool, chunk.faults))
    output.finish(writer.finish)
    return Summary(output.rows, without_text)


def _without(chunks: Iterator[Sequence[Row]], rows: int) -> Iterator[Sequence[Row]]:
    """The chunks after the first ``rows`` rows, which are whole chunks."""
    for chunk in chunks:
        if rows <= 0:
            yield chunk
        rows -= len(chunk)


def _output(arguments: PredictArguments, opened: OpenedRun, hardware: Hardware, source: Path) -> Output:
    """The output, with what an earlier call of the same command has completed."""
    if str(arguments.output) == STANDARD:
        return StandardOutput()
    output = PartialFile(arguments.output, _origin(arguments, opened, hardware, source))
    if output.rows:
        note(f"Continuing {arguments.output} after row {output.rows:,}")
    elif output.afresh:
        note(f"{arguments.output} is written afresh: its beginning, by an earlier call, {output.afresh}")
    return output


def _origin(arguments: PredictArguments, opened: OpenedRun, hardware: Hardware, source: Path) -> dict[str, Any]:
    """Everything that can change a byte of the output; the rows of another origin are not continued."""
    keys = {"text", "title", "body", "top_k", "probabilities", "batch_size", "decide", "none_label", "sets", "data"}
    named = arguments.model_dump(mode="json", include=keys)
    return {
        "run": [opened.record.run_id, opened.record.finished_at],
        "calibration": None if opened.calibration is None else opened.calibration.digest,
        "input": {"name": str(arguments.input), "bytes": source.stat().st_size, "sha256": sha256_file(source)},
        "command line": named | {"format": arguments.output_format},
        "device": [hardware.accelerator, hardware.precision, *hardware.cpu_numerics],
    }
