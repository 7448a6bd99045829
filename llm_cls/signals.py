"""Ctrl-C, SIGTERM and a closed terminal end a run at once, with every file whole and a line on how to resume."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from llm_cls.errors import RunInterrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))  # not on Windows

_received: list[int] = []  # signal handlers belong to the process, and so does this


def handled_signals() -> list[signal.Signals]:
    """The signals that end a run: all but those that the process was told to ignore (nohup)."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def install_handlers() -> None:
    """Makes these signals raise ``RunInterrupted``."""
    for number in handled_signals():
        signal.signal(number, _interrupt)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP, Ctrl-Z); False where the system does not tell.

    One that a profiler or debugger holds is not: profilers hold a process for a moment, many times a second.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state == "T"


def remove_handlers() -> None:
    """Restores the default, which ends the process: after the command nothing is left to report."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; real-time signals have no name."""
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")


def raise_if_received() -> None:
    """Raises a signal's exception that Python dropped because it was raised in a destructor or a callback.

    Raises:
        RunInterrupted: A signal was received.
    """
    if _received:
        raise interrupted_by(_received[0])


def interrupted_by(number: int) -> RunInterrupted:
    """The exception with which this signal ends a run."""
    return RunInterrupted(f"Interrupted by {signal.Signals(number).name}")


@contextmanager
def signals_first() -> Iterator[None]:
    """In this block a received signal is reported rather than the errors that it causes in libraries.

    Raises:
        RunInterrupted: A signal was received, and then an error was raised.
    """
    try:
        yield
    except Exception:
        raise_if_received()
        raise


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process
    raise interrupted_by(number)
