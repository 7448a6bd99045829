"""Ctrl-C, SIGTERM and a closed terminal: the run ends at once, every file whole, and says how to go on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from llm_cls.errors import RunInterrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))  # not on Windows

_received: list[int] = []  # of the process, as signal handlers are


def heeded() -> list[signal.Signals]:
    """The signals that end a run: all but those that the process was told to ignore (nohup)."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def listen() -> None:
    """Turns these signals into ``RunInterrupted``."""
    for number in heeded():
        signal.signal(number, _interrupt)


def stop_listening() -> None:
    """From now on they just end the process: nobody could say anything any more."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def check() -> None:
    """Raises again what a signal raised where nothing can be raised: in a destructor, a log handler, a lock.

    Raises:
        RunInterrupted: A signal has come.
    """
    if _received:
        raise interrupted_by(_received[0])


def interrupted_by(number: int) -> RunInterrupted:
    """What a run ends with for this signal."""
    return RunInterrupted(f"Interrupted by {signal.Signals(number).name}")


@contextmanager
def before_errors() -> Iterator[None]:
    """In this block a signal counts for more than what a library's clean-up raises after it.

    Raises:
        RunInterrupted: A signal has come, and then an error.
    """
    try:
        yield
    except Exception:
        check()
        raise


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    signal.signal(number, signal.SIG_DFL)  # the second time is not asked about
    check()
    raise AssertionError
