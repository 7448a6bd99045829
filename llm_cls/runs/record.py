"""The content of ``run.json`` when a run begins."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_cls.runs.identity import run_id
from llm_cls.runs.schema import SCHEMA, DataRecord, ModelRecord, RunRecord

_PACKAGES = ("llm_cls", "torch", "lightning", "transformers", "peft", "tokenizers", "sentencepiece", "numpy")


def new_record(
    parts: dict[str, Any],
    overrides: Sequence[str],
    data: DataRecord,
    model: ModelRecord,
    hardware: str,
    world_size: int,
) -> RunRecord:
    """The record of a run that begins now.

    Args:
        parts: Its identity.
        overrides: Its command line.
        data: The corpus.
        model: The pretrained model; its sizes are not known yet.
        hardware: Description of the devices.
        world_size: Number of processes.
    """
    return RunRecord(
        schema_version=SCHEMA,
        run_id=run_id(parts),
        identity=parts,
        overrides=list(overrides),
        git_commit=_git_commit(),
        versions={"python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}},
        data=data,
        model=model,
        hardware=hardware,
        world_size=world_size,
        started_at=now(),
        finished_at=None,
    )


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git_commit() -> str | None:
    """The commit of the running code, with "-dirty" where it was changed; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
