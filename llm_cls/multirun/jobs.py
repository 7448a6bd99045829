"""The jobs of a sweep as launchers get them: whether the folder of one can be written, and its command line."""

from pathlib import Path

from llm_cls.config.compose import quoted
from llm_cls.config.groups import GROUPS
from llm_cls.errors import ResourceError
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.writable import check_writable


def unwritable_error(run: Path) -> Exception | None:
    """Why a run's folder cannot be written, which would make launchers abandon all runs; None if it can."""
    if not RunDirectory(run).has_metrics:  # of a finished run nothing is written
        try:
            check_writable(run)
        except ResourceError as error:
            return error
    return None


def as_choice(override: str) -> str:
    """``template=2`` with its value quoted, for processes that have not called ``accept_plain_values``."""
    key, _, value = override.partition("=")
    return f"{key}={quoted(value)}" if key in GROUPS and value.isdecimal() else override
