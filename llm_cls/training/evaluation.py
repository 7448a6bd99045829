"""Scores of a finished run on labelled files."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from llm_cls.config.scoring import EvaluateArguments
from llm_cls.data.inputs import TextColumns, cell_text
from llm_cls.data.labels import match_labels
from llm_cls.data.rows import Row, TableFormat, column, iter_rows
from llm_cls.errors import DataError
from llm_cls.files import check_output, sha256_file
from llm_cls.metrics.evaluation import evaluate
from llm_cls.runs import layout
from llm_cls.runs.calibration import ConformalSets
from llm_cls.runs.evaluations import (
    EvaluatedFile,
    EvaluatedText,
    EvaluationRecord,
    check_folder,
    folder_name,
    write_evaluation,
)
from llm_cls.runs.record import now
from llm_cls.training.deciding import (
    Decider,
    conformal_sets,
    decider,
    label_sets,
    none_label,
    summarize,
    summarize_sets,
)
from llm_cls.training.loaded import OpenedRun, open_run, scoring_hardware
from llm_cls.training.result import collect_scores
from llm_cls.training.scorers import Scored, scorer
from llm_cls.training.streams import Chunk, chunk_rows, chunks_ahead


@dataclass(frozen=True)
class _Source:
    """A file to evaluate, which has been found to have the columns.

    Attributes:
        file: What it is.
        folder: Where its evaluation goes.
        rows: All its rows, a chunk at a time.
        label: Name of the column with the label.
        id: Name of the column with the id; None numbers the rows.
    """

    file: EvaluatedFile
    folder: Path
    rows: Iterator[Sequence[Row]]
    label: str
    id: str | None


@dataclass
class _Rows:
    """The rows of a file as far as they are read; log-probabilities are those of the rows without a fault."""

    ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    log_probabilities: list[npt.NDArray[np.float64]] = field(default_factory=list)


def evaluate_files(arguments: EvaluateArguments) -> Iterator[tuple[Path, EvaluationRecord]]:
    """Evaluates one file after the other, and writes each evaluation to its folder.

    All files are checked before the first is scored.

    Yields:
        The folder and the content of ``evaluation.json``, for each file.

    Raises:
        LlmClsError: The run is not finished or is damaged, or a file is not valid.
    """
    opened = open_run(arguments.run, arguments.trust_remote_code, arguments.calibrated)
    decide, sets = decider(arguments, opened), conformal_sets(arguments, opened)
    hardware = scoring_hardware(arguments.accelerator, arguments.devices)
    data = arguments.data
    columns = TextColumns.of(opened.config, data.text, data.title, data.body, section="data.")
    batch_size = hardware.scoring_batch_size(arguments.batch_size)
    sources = [_source(arguments, opened, columns, batch_size, path) for path in data.files]
    with (
        tqdm(desc="Evaluating", unit="text", disable=None) as progress,
        scorer(opened, hardware, batch_size, progress) as score,
    ):
        for source in sources:
            rows = _score(opened, columns, source, score)
            record, texts = _evaluate(arguments, opened, decide, sets, source, rows)
            write_evaluation(source.folder, record, texts)
            yield source.folder, record


def _source(
    arguments: EvaluateArguments, opened: OpenedRun, columns: TextColumns, batch_size: int, path: Path
) -> _Source:
    chunks = iter_rows(path, TableFormat.of(opened.config.data, arguments.data), chunk_rows(batch_size))
    if not (first := next(chunks, [])):
        raise DataError(f"{path} has no rows. Give a file with rows")
    columns.check(first[0], path)
    training = opened.config.data
    label, id = arguments.data.label or training.label or "label", arguments.data.id or training.id or "id"
    blank = [dict.fromkeys(first[0], "")]
    column(blank, label, "data.label", path, may_be_empty=True)
    if arguments.data.id:
        column(blank, id, "data.id", path, may_be_empty=True)
    digest = sha256_file(path)
    asked = {
        "calibrated": arguments.calibrated,
        str(arguments.decide): arguments.decide != "argmax",
        "sets": arguments.sets,
    }
    name = "-".join([folder_name(path, digest), *(part for part, is_asked in asked.items() if is_asked)])
    folder = arguments.run / layout.EVALUATIONS / name
    if arguments.output is not None:
        several = len(arguments.data.files) > 1
        folder = arguments.output / name if several else arguments.output
    check_folder(folder)
    check_output(folder / layout.EVALUATION)
    file = EvaluatedFile(name=path.name, sha256=digest, bytes=path.stat().st_size)
    return _Source(file, folder, chain([first], chunks), label, id if id in first[0] else None)


def _score(
    opened: OpenedRun, columns: TextColumns, source: _Source, score: Callable[[Iterator[Chunk]], Scored]
) -> _Rows:
    rows = _Rows()
    with closing(chunks_ahead(opened, columns, source.rows)) as chunks:
        for chunk, log_probabilities in score(chunks):
            for row in chunk.rows:
                rows.labels.append(cell_text(row, source.label)[0])
                rows.ids.append(cell_text(row, source.id)[0] if source.id else str(len(rows.ids) + 1))
            rows.faults += chunk.faults
            rows.log_probabilities.append(log_probabilities)
    return rows


def _evaluate(
    arguments: EvaluateArguments,
    opened: OpenedRun,
    decide: Decider | None,
    sets: ConformalSets | None,
    source: _Source,
    rows: _Rows,
) -> tuple[EvaluationRecord, Iterator[EvaluatedText]]:
    """The content of ``evaluation.json``, without the digest of the predictions, and these."""
    index = {label: i for i, label in enumerate(opened.labels)}
    rows.labels = match_labels(rows.labels, opened.labels, opened.config.data)
    log_probabilities = np.concatenate(rows.log_probabilities)
    labels = [label for label, fault in zip(rows.labels, rows.faults, strict=True) if not fault]  # of those with a text
    known = np.array([label in index for label in labels], bool)
    unknown = Counter(label for label in labels if label not in index)
    if not known.any():
        example = f", found {next(iter(unknown))!r}" if unknown else ""
        raise DataError(
            f"{source.file.name}: no text has a label of the run ({', '.join(map(repr, opened.labels[:5]))}){example} "
            f"in column {source.label!r}. Try data.label=COLUMN"
        )
    found = evaluate(log_probabilities[known], np.array([index[label] for label in labels if label in index], np.int64))
    scores, per_class = collect_scores(found, opened.labels, opened.record.monitor)
    decided = None if decide is None else decide(log_probabilities)
    label_set = None if sets is None else label_sets(opened.labels, log_probabilities, sets)
    more: dict[str, Any] = {}  # what is there only where it was asked for
    if opened.calibration is not None:
        more["calibration"] = opened.calibration.digest
    if decided is not None:
        more["decision"] = summarize(str(arguments.decide), none_label(arguments, opened), labels, decided, known)
    if sets is not None and label_set is not None:
        pairs = [(label, some) for label, some in zip(labels, label_set, strict=True) if label in index]
        more["sets"] = summarize_sets(pairs, sets)
    record = EvaluationRecord(
        run_id=opened.record.run_id,
        file=source.file,
        rows=len(rows.ids),
        unknown_labels=dict(sorted(unknown.items(), key=lambda item: (-item[1], item[0]))),
        without_text=dict(Counter(fault for fault in rows.faults if fault)),
        absent_labels=[label for label in opened.labels if label not in labels],
        scores=scores,
        per_class=per_class,
        predictions_sha256="",
        created_at=now(),
        schema_version=1,
        **more,
    )
    return record, _lines(opened.labels, rows, np.exp(log_probabilities), decided, label_set)


def _lines(
    names: Sequence[str],
    rows: _Rows,
    probabilities: npt.NDArray[np.float64],
    decided: Sequence[str] | None,
    found_sets: Sequence[list[str]] | None,
) -> Iterator[EvaluatedText]:
    texts = iter(zip(probabilities.tolist(), probabilities.argmax(axis=1).tolist(), strict=True))
    decisions, sets = iter(decided or ()), iter(found_sets or ())
    for id, label, fault in zip(rows.ids, rows.labels, rows.faults, strict=True):
        p, best = (None, None) if fault else next(texts)
        more: dict[str, Any] = {} if decided is None else {"decision": None if fault else next(decisions)}
        if found_sets is not None:
            more["label_set"] = None if fault else next(sets)
        yield EvaluatedText(
            id=id,
            label=label,
            prediction=None if best is None else names[best],
            probabilities=None if p is None else dict(zip(names, p, strict=True)),
            scored=not fault and label in names,
            error=fault or None,
            **more,
        )
