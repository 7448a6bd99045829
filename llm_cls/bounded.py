"""Calls that may block for ever, such as those to a server or to another process, with a limit."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_within(seconds: float, action: Callable[[], T]) -> T:
    """The value of ``action()``, for which this process waits at most ``seconds``.

    The action runs in a thread, because no timeout of a library covers all that can block: names that are not
    resolved, headers that arrive byte by byte, a full pipe to a stopped process. Signals are handled meanwhile.

    Raises:
        TimeoutError: It still runs. Its thread is abandoned, and ends with the process at the latest.
    """
    values: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            values.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not values:
        raise TimeoutError(f"no end within {seconds:g} s")
    return values[0]
