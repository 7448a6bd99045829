"""Items that a thread computes ahead."""

import threading
from collections.abc import Iterator

import pytest

from llm_cls.training.streams import ahead


def test_all_items_in_their_order() -> None:
    assert list(ahead(iter(range(100)), 3)) == list(range(100))
    assert list(ahead(iter(()), 3)) == []


def test_so_many_are_computed_ahead_and_no_more() -> None:
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            if i == 3:
                third.set()
            yield i

    found = ahead(items(), 2)
    assert next(found) == 0
    assert third.wait(10), "one that was taken, two that wait, and one that waits for room"
    assert len(made) == 4
    found.close()
    assert len(made) == 4


def test_an_error_comes_after_the_items_before_it_and_the_thread_ends() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("second")

    before = threading.active_count()
    found = ahead(items(), 5)
    assert next(found) == 1
    with pytest.raises(ValueError, match="second"):
        next(found)
    assert threading.active_count() == before


def test_an_abandoned_stream_ends_its_thread() -> None:
    before = threading.active_count()
    found = ahead(iter(range(10**9)), 2)
    next(found)
    found.close()
    assert threading.active_count() == before
