"""The texts of an input as a stream of chunks, read and tokenized while others are scored.

A chunk is a fixed number of rows of the input, so that its batches, and with them the bits of its scores, depend on
nothing but the input and the batch size: not on where a process was interrupted, nor on how many processes there are.
"""

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from queue import Full, Queue
from typing import TypeVar

from llm_cls.data.inputs import TextColumns
from llm_cls.data.rows import Row
from llm_cls.data.tokens import Tokens
from llm_cls.training.loaded import OpenedRun

T = TypeVar("T")

_CHUNK_BATCHES = 16  # enough to sort texts of about the same length together, and few enough to hold some in memory
_READ_AHEAD = 2  # chunks
_POLL_SECONDS = 0.1
_END_SECONDS = 2.0


@dataclass(frozen=True)
class Chunk:
    """Some rows of an input.

    Attributes:
        rows: The rows.
        faults: For each row why it has no text, "" where it has one.
        tokens: The texts of the others, in their order.
    """

    rows: Sequence[Row]
    faults: Sequence[str]
    tokens: Tokens


def chunk_rows(batch_size: int) -> int:
    """Rows of a chunk."""
    return _CHUNK_BATCHES * batch_size


def chunks_of(opened: OpenedRun, columns: TextColumns, rows: Iterator[Sequence[Row]]) -> Iterator[Chunk]:
    """The texts of rows, which come a chunk at a time, as tokens."""
    for some in rows:
        pieces, faults = columns.read(some)
        yield Chunk(some, faults, opened.tokenize(pieces))


def chunks_ahead(
    opened: OpenedRun, columns: TextColumns, rows: Iterator[Sequence[Row]]
) -> Generator[Chunk, None, None]:
    """``chunks_of``, some of which a thread reads before they are asked for. The caller closes it."""
    return ahead(chunks_of(opened, columns, rows), _READ_AHEAD)


def ahead(items: Iterator[T], n: int) -> Generator[T, None, None]:
    """The same items, of which a thread computes up to ``n`` before they are asked for.

    Args:
        items: Is used by that thread alone.
        n: Items that wait at most.
    """
    queue: Queue[tuple[list[T], BaseException | None]] = Queue(n)
    stop = threading.Event()

    def put(found: list[T], error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                return queue.put((found, error), timeout=_POLL_SECONDS)
            except Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put([item])
                if stop.is_set():
                    return
            put([])
        except BaseException as error:
            put([], error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            found, error = queue.get()
            if error is not None:
                raise error
            if not found:
                return
            yield found[0]
    finally:
        stop.set()
        thread.join(_END_SECONDS)  # it may wait for a disk that does not answer
