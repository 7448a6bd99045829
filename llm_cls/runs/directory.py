"""The run directory: the only place that creates, checks, completes and cleans it.

A run begins with ``config.yaml`` and ``run.json`` and is complete once its result exists, which is written last.
Everything else about its state is read from the files, so a killed process leaves nothing to repair.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from llm_cls.config.schema import Config
from llm_cls.errors import ArtifactError, OtherRunError, ResourceError
from llm_cls.files import remove, remove_folders, seal, sync_folder, write_text
from llm_cls.runs import layout
from llm_cls.runs.config_file import dump_config, read_config
from llm_cls.runs.content import content_text, write_content, write_lines
from llm_cls.runs.identity import differences, identity
from llm_cls.runs.lock import hold, is_locked
from llm_cls.runs.manifest import remove_manifest, verify_beginning, write_manifest
from llm_cls.runs.record import CONDITIONS
from llm_cls.runs.schema import SCHEMA, Epoch, Failure, Metrics, Prediction, RunRecord
from llm_cls.runs.state import RunState, read_result, read_state
from llm_cls.runs.verify import verify_result
from llm_cls.runs.writable import check_writable

_OTHER = "Give another hydra.run.dir, or in a sweep another sweep.name"


class RunDirectory:
    """One run directory.

    Of the processes of a run, one writes: in the others all methods that write do nothing.

    Attributes:
        path: The directory.
        writes: Whether this process is the one that writes.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        """Neither reads nor writes anything yet."""
        self.path = path
        self.writes = writes

    # Reading

    @property
    def state(self) -> RunState:
        """How far the run is."""
        return read_state(self.path)

    @property
    def has_metrics(self) -> bool:
        """Whether the run is complete, damaged or not."""
        return (self.path / layout.METRICS).is_file()

    def result(self, parts: dict[str, Any]) -> Metrics | None:
        """The metrics of the run with the identity ``parts``, if it is complete; all its files are checked.

        Raises:
            OtherRunError: The directory belongs to another run.
            ArtifactError: A file of the run is damaged.
        """
        if not self.writes and is_locked(self.path):
            return None  # the process that writes is already working; all of them compare identities before training
        record, metrics = self._same_run(parts)
        if metrics is not None and record is not None:
            verify_result(self.path, record, metrics)
            self._remove_temporary_files(finished=True)
        return metrics

    # The life of a run

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the directory; the lock of a process that died is free.

        Raises:
            LockedError: Another process holds it.
        """
        if not self.writes:
            yield
            return
        with hold(self.path):
            yield

    def begin(self, config: Config, record: RunRecord) -> RunRecord:
        """Begins the run, or resumes it if it has begun; returns the record that counts.

        Raises:
            OtherRunError: The directory belongs to another run.
            ArtifactError: A file of the run is damaged; nothing is overwritten.
            ResourceError: The directory cannot be written.
        """
        if not self.writes:
            return record
        check_writable(self.path)
        assert record.identity is not None
        known, _ = self._same_run(record.identity)
        if known is not None:  # what began the run stays on record
            updates = {"schema_version": SCHEMA, "identity": record.identity, "run_id": record.run_id}
            if not self.checkpoints:  # all epochs are trained here and now
                updates |= {key: getattr(record, key) for key in ("versions", "git_commit", *CONDITIONS)}
            record = known.model_copy(update=updates)
        for parent in self.path.absolute().parents:  # Hydra has created the folder
            sync_folder(parent)
        self._remove_temporary_files()
        self.clear_failure()
        texts = {layout.CONFIG: dump_config(config), layout.RECORD: content_text(record)}
        self._write(record, texts, complete=False)
        return record

    def commit(self, record: RunRecord, metrics: Metrics) -> None:
        """Completes the run; all its other files must be written. The result comes last."""
        if self.writes:
            texts = {layout.RECORD: content_text(record), layout.METRICS: content_text(metrics)}
            self._write(record, texts, complete=True)
            self.clear_failure()
            self._remove_temporary_files(finished=True)

    def _write(self, record: RunRecord, texts: dict[str, str], complete: bool) -> None:
        """Writes files and the manifest over them; a kill at any moment leaves no contradiction."""
        remove_manifest(self.path)
        for name, text in texts.items():
            if name != layout.METRICS:
                write_text(self.path / name, text)
        write_manifest(self.path, record.run_id, texts, complete)
        if layout.METRICS in texts:
            write_text(self.path / layout.METRICS, texts[layout.METRICS])

    def discard(self) -> None:
        """Removes what a run wrote that failed before the end of its first epoch.

        Nothing can be resumed, and a corrected command is another run, for which the directory would be refused.
        """
        if not self.writes or self.checkpoints or (self.path / layout.HISTORY).exists():
            return
        for name in (layout.CONFIG, layout.RECORD, layout.MANIFEST):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # it is missing or not empty
            (self.path / layout.CHECKPOINTS).rmdir()

    def remove_created(self, created: Sequence[Path]) -> None:
        """Removes the files and folders that were created for a run that ended before it began.

        What existed before it stays, and so does everything if another process is about to begin there.
        """
        if not (created and self.writes and self.path.is_dir()):
            return
        with suppress(OSError, filelock.Timeout), filelock.FileLock(self.path / layout.LOCK, blocking=False):
            if (self.path / layout.RECORD).exists():
                return
            for path in created:
                if not path.is_dir():
                    path.unlink(missing_ok=True)
        remove_folders(created)

    # Files

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints, the newest first; none of them is checked yet."""
        folder = self.path / layout.CHECKPOINTS
        earlier = folder / layout.SCHEMA_2_CHECKPOINT
        return sorted(folder.glob(layout.CHECKPOINT_FILES), reverse=True) + ([earlier] if earlier.is_file() else [])

    def new_checkpoint(self, epoch: int) -> Path:
        """Where the checkpoint after an epoch, counted from 1, is written before ``keep_checkpoint``."""
        return self.path / layout.CHECKPOINTS / layout.checkpoint(epoch)

    def keep_checkpoint(self, epoch: int, before: Path | None) -> Path | None:
        """Makes the checkpoint after ``epoch`` count, and removes all others but ``before``, which is the fallback."""
        if not self.writes:
            return None
        kept = seal(self.new_checkpoint(epoch))
        for path in kept.parent.iterdir():
            if path not in (kept, before):
                path.unlink()
        return kept

    def write_history(self, epochs: Sequence[Epoch]) -> None:
        """Replaces ``history.jsonl``."""
        if self.writes:
            write_lines(self.path / layout.HISTORY, epochs)

    def write_predictions(self, split: str, lines: Iterator[Prediction]) -> None:
        """Replaces the predictions of a split."""
        if self.writes:
            write_lines(self.path / layout.PREDICTIONS / f"{split}.jsonl", lines)

    def record_failure(self, reason: str, exit_code: int) -> None:
        """Writes why the run failed."""
        with suppress(FileNotFoundError):  # another process has removed the folder in the meantime
            write_content(self.path / layout.FAILURE, Failure(reason=reason, exit_code=exit_code))

    def clear_failure(self) -> None:
        """Removes the record of an earlier failure."""
        remove(self.path / layout.FAILURE)

    def check_exists(self) -> None:
        """Checks that the directory was not removed during the run.

        Raises:
            ResourceError: It was removed.
        """
        if self.writes and not (self.path / layout.RECORD).is_file():
            raise ResourceError(f"{self.path} was removed during the run. Start it again")

    @contextmanager
    def explain_removal(self) -> Iterator[None]:
        """Reports a removed directory instead of the errors that it causes."""
        try:
            yield
        except Exception:
            self.check_exists()
            raise

    def _same_run(self, parts: dict[str, Any]) -> tuple[RunRecord | None, Metrics | None]:
        """Record and metrics in this directory, which are those of the run ``parts``, as far as they exist."""
        record, metrics = read_result(self.path)
        if record is None:
            return None, None
        if metrics is None:
            verify_beginning(self.path)
        if record.identity is None:
            raise ArtifactError(
                f"{self.path / layout.RECORD} is damaged: identity is missing. Remove {self.path} and start again"
            )
        before = record.identity
        if record.schema_version < SCHEMA:  # the same facts, and config.yaml has the rest
            before = identity(read_config(self.path / layout.CONFIG), before)
        if differing := differences(before, parts):
            raise OtherRunError(f"{self.path} holds a run of another configuration ({'; '.join(differing)}). {_OTHER}")
        return record, metrics

    def _remove_temporary_files(self, finished: bool = False) -> None:
        """Removes what a killed process was writing; of a finished run also the checkpoints."""
        if not self.writes:
            return
        folders = (self.path, self.path / layout.CHECKPOINTS, self.path / layout.PREDICTIONS)
        left = [path for folder in folders for path in folder.glob(".*.tmp")]
        if finished:
            left += sorted((self.path / layout.CHECKPOINTS).glob("*"))
        for path in left:
            with suppress(OSError):  # another process does the same, or the folder is read-only
                shutil.rmtree(path) if path.is_dir() else path.unlink()
