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

_NUMERIC = ("llm_cls", "torch", "transformers", "peft")
CONDITIONS = ("hardware", "world_size", "threads", "cpu_capability")


def new_record(
    parts: dict[str, Any],
    overrides: Sequence[str],
    data: DataRecord,
    model: ModelRecord,
    hardware: str,
    world_size: int,
    threads: int | None = None,
    cpu_capability: str | None = None,
) -> RunRecord:
    """The record of a run that begins now.

    Args:
        parts: Its identity.
        overrides: Its command line.
        data: The corpus.
        model: The pretrained model; its sizes are not known yet.
        hardware: Description of the devices.
        world_size: Number of processes.
        threads: Of torch, where it computes on the CPU.
        cpu_capability: The instructions that torch uses there.
    """
    return RunRecord(
        schema_version=SCHEMA,
        run_id=run_id(parts),
        identity=parts,
        overrides=list(overrides),
        git_commit=_git_commit(),
        versions=versions(*_PACKAGES),
        data=data,
        model=model,
        hardware=hardware,
        world_size=world_size,
        threads=threads,
        cpu_capability=cpu_capability,
        started_at=now(),
        finished_at=None,
    )


def changed_conditions(before: RunRecord, now: RunRecord) -> list[str]:
    """In what the machine or the software differ, as far as results depend on them in the last digits.

    What one of the records does not say, as that of an earlier version, does not differ.
    """
    names = {"world_size": "processes", "threads": "threads (OMP_NUM_THREADS)", "cpu_capability": "CPU instructions"}
    pairs = [(names.get(key, key), getattr(before, key), getattr(now, key)) for key in CONDITIONS]
    pairs += [(package, before.versions.get(package), now.versions.get(package)) for package in _NUMERIC]
    return [f"{name}: {a} before, {b} now" for name, a, b in pairs if a != b and a is not None and b is not None]


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(*packages: str) -> dict[str, str | None]:
    """The versions of Python and of packages."""
    return {"python": platform.python_version(), **{package: _version(package) for package in packages}}


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
