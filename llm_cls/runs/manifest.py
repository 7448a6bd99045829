"""The manifests of a run: the sha256 of each file, so that damage is noticed before a file is used.

``manifest.json`` is written when a run begins, over what is complete then, and again when it ends, over everything. It
finds damage and mixed-up files; it is no signature, and whoever edits a run can write a new one (docs/security.md).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, RootModel, StringConstraints

from llm_cls.errors import ArtifactError
from llm_cls.files import check_digest, remove, sha256_file, write_json
from llm_cls.runs import layout
from llm_cls.runs.content import read_content, write_content
from llm_cls.runs.schema import SCHEMA, FileContent, RunRecord

_FIX = "Restore it or train the run again"
_OF_THE_BEGINNING = (layout.CONFIG, layout.RECORD)


def _stays_inside(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
        raise ValueError(f"must be a path inside the folder, got {name!r}")
    return name


Digests = dict[
    Annotated[str, AfterValidator(_stays_inside)], Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
]


class ModelManifest(RootModel[Digests]):
    """``model/manifest.json``: the sha256 of each file by its path below ``model/``."""

    model_config = ConfigDict(strict=True)


class RunManifest(FileContent):
    """``manifest.json``: the sha256 of each file of the run by its path; of ``model/`` that of its manifest."""

    schema_version: int = Field(SCHEMA, alias="schema")
    run_id: str
    files: Digests


def text_digest(text: str) -> str:
    """The sha256 of a file with this text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def files_of(directory: Path) -> list[str]:
    """The files of a run that its manifest covers, as far as they exist."""
    names = [layout.CONFIG, layout.RECORD, layout.HISTORY, layout.METRICS, f"{layout.MODEL}/{layout.MANIFEST}"]
    names += [f"{layout.PREDICTIONS}/{path.name}" for path in sorted((directory / layout.PREDICTIONS).glob("*.jsonl"))]
    return [name for name in names if (directory / name).exists()]


def write_manifest(directory: Path, run_id: str, texts: Mapping[str, str], complete: bool) -> None:
    """Writes ``manifest.json``.

    Args:
        directory: The run directory.
        run_id: Of the run.
        texts: Files that are about to be written, or have just been, by their content.
        complete: Whether all files of the run are written but those in ``texts``.
    """
    names = files_of(directory) if complete else []
    digests = {name: sha256_file(directory / name) for name in names if name not in texts}
    digests |= {name: text_digest(text) for name, text in texts.items()}
    manifest = RunManifest(schema_version=SCHEMA, run_id=run_id, files=dict(sorted(digests.items())))
    write_content(directory / layout.MANIFEST, manifest)


def remove_manifest(directory: Path) -> None:
    """Removes ``manifest.json`` before a file that it covers changes: a kill in between leaves no contradiction."""
    remove(directory / layout.MANIFEST)


def verify_beginning(directory: Path) -> None:
    """Compares ``config.yaml`` and ``run.json`` of a run that has begun with its manifest, if it has one.

    Raises:
        ArtifactError: One of them is damaged or missing.
    """
    manifest = _read(directory)
    if manifest is not None:
        _compare(directory, {name: d for name, d in manifest.files.items() if name in _OF_THE_BEGINNING})


def verify_files(directory: Path, record: RunRecord, with_model: bool = True) -> None:
    """Compares every file of a complete run with its manifests.

    Runs of schemas 1 and 2 have a manifest of their model only.

    Args:
        directory: The run directory.
        record: Its ``run.json``.
        with_model: Whether the files in ``model/`` are read as well.

    Raises:
        ArtifactError: A file is missing, damaged, not listed, or of another run.
    """
    manifest = _read(directory)
    if manifest is None and record.schema_version >= 3:
        raise ArtifactError(f"{directory / layout.MANIFEST} is missing. {_FIX}")
    if manifest is not None:
        if manifest.run_id != record.run_id:
            raise ArtifactError(
                f"{directory / layout.MANIFEST} belongs to run {manifest.run_id}, {layout.RECORD} to "
                f"{record.run_id}. Restore both or train the run again"
            )
        _check_listed(directory / layout.MANIFEST, set(files_of(directory)), manifest.files)
        _compare(directory, manifest.files)
    folder = directory / layout.MODEL
    if with_model and folder.exists():
        verify_model(folder)


def write_model_manifest(folder: Path) -> None:
    """Writes ``model/manifest.json`` over all other files in ``folder``."""
    write_json(folder / layout.MANIFEST, {name: sha256_file(folder / name) for name in _model_files(folder)})


def verify_model(folder: Path) -> None:
    """Compares every file in ``model/`` with its manifest.

    Raises:
        ArtifactError: A file is missing, damaged or not listed.
    """
    path = folder / layout.MANIFEST
    manifest = read_content(path, ModelManifest, _FIX)
    if manifest is None:
        raise ArtifactError(f"{path} is missing: the run in {folder.parent} has not finished")
    _check_listed(path, {*_model_files(folder), layout.HEAD, layout.LABELS}, manifest.root)
    _compare(folder, manifest.root)


def _read(directory: Path) -> RunManifest | None:
    return read_content(directory / layout.MANIFEST, RunManifest, _FIX)


def _model_files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != layout.MANIFEST)


def _check_listed(path: Path, present: set[str], listed: Mapping[str, str]) -> None:
    if unlisted := sorted(present - listed.keys()):
        raise ArtifactError(f"{path} does not list {unlisted[0]}. Restore both or train the run again")


def _compare(folder: Path, expected: Mapping[str, str]) -> None:
    for name, digest in expected.items():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing. {_FIX}")
        try:
            check_digest(file, digest)
        except ValueError as fault:
            raise ArtifactError(f"{file} is damaged: {fault} ({layout.MANIFEST}). {_FIX}") from None
