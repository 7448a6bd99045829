"""Errors that a user can cause, each with the exit code that the commands return for it."""

import re
from collections.abc import Mapping

EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 75


def first_line(error: BaseException | None) -> str:
    """The first line of an error's message; the type of the error where the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def lacks_memory(error: BaseException) -> bool:
    """Whether an error tells of too little memory; the libraries have a kind of their own each."""
    text = str(error)
    return isinstance(error, MemoryError) or bool(
        re.search(r"out of memory|allocate memory|not enough memory", text, re.IGNORECASE)
    )


class LlmClsError(Exception):
    """Base class: the message is the one line that the user reads."""

    exit_code = EXIT_UNEXPECTED


class ConfigError(LlmClsError):
    """The configuration asks for something impossible."""

    exit_code = 2


class OtherRunError(ConfigError):
    """The run directory belongs to a run of another configuration."""


class DataError(LlmClsError):
    """Texts, labels or the files that hold them are not valid."""

    exit_code = 3


class ResourceError(LlmClsError):
    """Memory, disk or a lock that another process holds."""

    exit_code = 4


class LockedError(ResourceError):
    """Another process holds the run directory."""


class LostRankError(ResourceError):
    """A process of a run was killed or does not respond, so that the others cannot continue."""


class RankError(LlmClsError):
    """A process that this one started has failed and has reported why itself.

    Attributes:
        exit_code: The exit code of the process.
    """

    def __init__(self, name: str, exit_code: int) -> None:
        """Takes over ``exit_code`` of the process ``name``; what it has reported is not repeated."""
        super().__init__(f"{name} has crashed, as reported above" if exit_code == EXIT_UNEXPECTED else "")
        self.exit_code = exit_code


class ArtifactError(LlmClsError):
    """A file that an earlier run wrote is damaged or missing."""

    exit_code = 5


class SweepError(LlmClsError):
    """A sweep ended with failed runs.

    Attributes:
        refused: By the folders of runs, why they were left as they are: another run is there, or a damaged one.
        reasons: By the folders of runs, why their processes failed.
    """

    exit_code = 6

    def __init__(
        self, message: str, refused: Mapping[str, str] | None = None, reasons: Mapping[str, str] | None = None
    ) -> None:
        """Takes the lines for the user; see the class."""
        super().__init__(message)
        self.refused, self.reasons = dict(refused or {}), dict(reasons or {})


class RunInterrupted(BaseException):
    """The run was stopped from outside and can be resumed.

    Not an ``Exception``, so that no library catches it and continues.
    """

    exit_code = EXIT_INTERRUPTED
