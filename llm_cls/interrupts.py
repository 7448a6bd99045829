"""Ctrl-C and SIGTERM: the run ends at once, every file whole, and says how to go on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from llm_cls.errors import RunInterrupted

_received: list[int] = []  # of the process, as signal handlers are


def listen() -> None:
    """Turns both signals into ``RunInterrupted``, except where the process was told to ignore them (nohup)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def check() -> None:
    """Raises again what a signal raised where nothing can be raised: in a destructor, a log handler, a lock.

    Raises:
        RunInterrupted: A signal has come.
    """
    if _received:
        raise RunInterrupted(f"Interrupted by {signal.Signals(_received[0]).name}")


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
