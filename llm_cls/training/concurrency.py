"""How many runs of a sweep train at a time: a given number, or the one that trains the most tokens per second."""

import logging
import statistics
from typing import Literal

log = logging.getLogger(__name__)

_FIRST_ROUNDS = 3  # after a change: new shapes, the allocator
_ROUNDS = 7
_GAIN = 1.1  # less than that is not worth the memory, and may be noise


class Concurrency:
    """The number of runs of a pass, which "auto" doubles as long as that makes the pass faster.

    The measurement is the training itself: nothing is computed twice or thrown away. A run that has begun when a larger
    number turns out to be no faster waits until another one has ended.

    Attributes:
        most: Runs that train at a time, at present.
        settled: Whether this number stays.
    """

    def __init__(self, wanted: int | Literal["auto"], n_runs: int) -> None:
        """Takes the key of the configuration and the number of runs of the sweep."""
        self._n_runs = n_runs
        self.settled = wanted != "auto" or n_runs == 1
        self.most = 1 if wanted == "auto" else wanted
        self._rates: dict[int, list[float]] = {}

    def observe(self, runs: int, tokens: int, seconds: float) -> None:
        """Takes the duration of a round in which so many runs have trained so many tokens all together."""
        if self.settled or runs != self.most:
            return
        rates = self._rates.setdefault(runs, [])
        rates.append(tokens / seconds)
        if len(rates) < _FIRST_ROUNDS + _ROUNDS:
            return
        if self._fastest() == runs < self._n_runs:
            self.most = min(2 * runs, self._n_runs)
        else:
            self.settle()

    def settle(self) -> None:
        """Ends the measurement with the fastest number so far."""
        self.most, self.settled = self._fastest(), True
        rates = self._medians()
        measured = ", ".join(f"{n}: {rate:,.0f}" for n, rate in rates.items())
        if self.most == 1:
            log.info(
                "The runs train one by one: more at a time are not faster (tokens/s by their number: %s)", measured
            )
        else:
            log.info(
                "%d runs train at a time, %.1f times as fast as one by one (tokens/s by their number: %s)",
                self.most, rates[self.most] / rates[1], measured,
            )  # fmt: skip

    def _medians(self) -> dict[int, float]:
        """The rate of each number that was measured to the end."""
        return {
            n: statistics.median(rates[_FIRST_ROUNDS:])
            for n, rates in self._rates.items()
            if len(rates) == _FIRST_ROUNDS + _ROUNDS
        }

    def _fastest(self) -> int:
        """The largest number that was worth while."""
        rates, best = self._medians(), 1
        for n, rate in rates.items():
            if rate >= _GAIN * rates[best]:
                best = n
        return best
