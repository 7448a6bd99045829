"""Checks everything about a run that can be checked without loading its model."""

from pathlib import Path

from llm_cls.errors import ArtifactError
from llm_cls.files import check_digest
from llm_cls.runs import layout
from llm_cls.runs.calibration import read_calibration
from llm_cls.runs.config_file import read_config
from llm_cls.runs.identity import differences, identity, run_id
from llm_cls.runs.manifest import verify_beginning, verify_files
from llm_cls.runs.predictions import check_scores
from llm_cls.runs.schema import Metrics, RunRecord
from llm_cls.runs.state import read_files


def verify_run(directory: Path) -> None:
    """Checks the files of a run, whether it is complete or not.

    Of a complete run: every file against the manifests, the configuration against the identity, the scores against the
    predictions, and its calibration, if it has one. Of another: what it needs to resume.

    Raises:
        ArtifactError: A file is missing, damaged, or of another run.
    """
    record, _, metrics = read_files(directory)
    if record is None:
        return  # it has not begun
    if metrics is None:
        verify_beginning(directory)
        _verify_checkpoints(directory)
    else:
        verify_result(directory, record, metrics)
        read_calibration(directory, record)


def verify_result(directory: Path, record: RunRecord, metrics: Metrics) -> None:
    """The part of ``verify_run`` for a complete run.

    Raises:
        ArtifactError: A file is missing, damaged, or of another run.
    """
    verify_files(directory, record)
    if metrics.best_epoch is not None and not (directory / layout.MODEL).is_dir():
        raise ArtifactError(f"{directory / layout.MODEL} is missing. Restore it or train the run again")
    _check_identity(directory, record)
    for split in ("val", "test"):
        check_scores(directory, split, record, metrics)


def _check_identity(directory: Path, record: RunRecord) -> None:
    """Compares ``config.yaml`` and the run_id with the identity in ``run.json``."""
    if record.identity is None or record.schema_version < 2:
        return
    if run_id(record.identity) != record.run_id:
        raise ArtifactError(f"{directory / layout.RECORD} is damaged: run_id is not that of its identity. Restore it")
    parts = identity(read_config(directory / layout.CONFIG), record.identity)
    known = {key: value for key, value in parts.items() if key in record.identity}  # a later version has more keys
    if differing := differences(record.identity, known):
        raise ArtifactError(
            f"{directory / layout.CONFIG} is not that of the run in {layout.RECORD} ({differing[0]}). "
            "Restore both or train the run again"
        )


def _verify_checkpoints(directory: Path) -> None:
    for path in sorted((directory / layout.CHECKPOINTS).glob(layout.CHECKPOINT_FILES)):
        try:
            check_digest(path)
        except ValueError as error:
            raise ArtifactError(
                f"{path} is damaged: {error}. The same command resumes from the checkpoint before it, if there is one"
            ) from None
