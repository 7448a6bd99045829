"""The jobs of a sweep as launchers get them: what stands in the way of one, and its command line."""

import os
from pathlib import Path

from llm_cls.config.compose import quoted
from llm_cls.config.groups import GROUPS
from llm_cls.errors import ResourceError
from llm_cls.runs import layout


def in_the_way(run: Path) -> Exception | None:
    """Why a run's folder or log cannot be used, which would make launchers abandon all runs; None if it can."""
    log_file = run / layout.LOG
    if os.path.lexists(run) and not (run.is_dir() and os.access(run, os.W_OK | os.X_OK)):
        return ResourceError(f"{run} must be a writable folder. Move away what is there")
    if os.path.lexists(log_file) and not (log_file.is_file() and os.access(log_file, os.W_OK)):
        return ResourceError(f"{log_file} must be a writable file. Move away what is there")
    return None


def as_choice(override: str) -> str:
    """``template=2`` with its value quoted, for processes that have not called ``accept_plain_values``."""
    key, _, value = override.partition("=")
    return f"{key}={quoted(value)}" if key in GROUPS and value.isdecimal() else override
