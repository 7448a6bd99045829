"""How many runs train at a time."""

import pytest

from llm_cls.training.concurrency import Concurrency


def measured(rates: dict[int, float], n_runs: int) -> Concurrency:
    """Rounds of as many runs as are asked for, each at its rate, until nothing is measured any more."""
    pace = Concurrency("auto", n_runs)
    for _ in range(1000):
        if pace.settled:
            return pace
        pace.observe(pace.most, 100, 100 / rates[pace.most])
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    ("rates", "n_runs", "most"),
    [
        ({1: 100, 2: 150, 4: 200, 8: 205, 16: 300}, 24, 4),  # 8 runs are not faster by a tenth
        ({1: 100, 2: 105}, 24, 1),
        ({1: 100, 2: 180, 4: 90}, 24, 2),
        ({1: 100, 2: 180, 4: 300, 6: 400}, 6, 6),
        ({1: 100, 2: 180, 3: 170}, 3, 2),
        ({}, 1, 1),
    ],
)
def test_the_number_is_doubled_while_that_is_faster(rates: dict[int, float], n_runs: int, most: int) -> None:
    assert measured(rates, n_runs).most == most


def test_the_first_rounds_after_a_change_do_not_count() -> None:
    pace = Concurrency("auto", 4)
    for i in range(10):
        pace.observe(1, 100, 1.0)
        if i < 9:
            assert pace.most == 1
    for i in range(10):
        pace.observe(2, 100, 50.0 if i < 3 else 0.5)
    assert pace.most == 4 and not pace.settled


def test_a_round_of_other_runs_says_nothing() -> None:
    pace = Concurrency("auto", 4)
    for _ in range(100):
        pace.observe(3, 100, 1.0)
    assert pace.most == 1 and not pace.settled


def test_what_does_not_fit_is_the_end() -> None:
    pace = Concurrency("auto", 8)
    for _ in range(10):
        pace.observe(1, 100, 1.0)
    assert pace.most == 2
    pace.settle()  # two runs do not fit
    assert pace.most == 1 and pace.settled


def test_a_given_number_is_not_measured() -> None:
    pace = Concurrency(5, 3)
    assert pace.most == 5 and pace.settled
