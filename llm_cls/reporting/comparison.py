"""Tests whether the winner is better than other settings by more than chance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llm_cls.metrics.scores import SCORES, Floats
from llm_cls.metrics.statistics import (
    Ints,
    bootstrap_p_value,
    draw_texts,
    holm,
    mcnemar,
    percentile_ci95,
    resampled,
    standard_error,
)
from llm_cls.reporting.baseline import Baseline
from llm_cls.reporting.predictions import read_test_predictions
from llm_cls.reporting.settings import AXES, Setting, best_per
from llm_cls.runs.predictions import Predictions

# 2,000 resamples give p-values of at least 0.001. Corrected for more than 50 pairs, none could be below 0.05.
MAX_PAIRS = 40


@dataclass(frozen=True)
class Comparison:
    """The winner against another on the same test texts.

    Attributes:
        winner, other: Names of both settings: what differs between them.
        difference: Mean test score of the winner minus that of the other.
        interval: 95 % interval of the difference by the paired bootstrap.
        p_bootstrap, p_mcnemar: Two-sided, Holm-corrected over all pairs of the report.
        run_error: Standard error of the difference over seeds or folds; None where either has a single run.
        only_winner, only_other: Number of texts that only one of both gets right, by one run of each.
        n_texts: Number of distinct test texts.
    """

    winner: str
    other: str
    difference: float
    interval: tuple[float, float]
    p_bootstrap: float
    p_mcnemar: float
    run_error: float | None
    only_winner: int
    only_other: int
    n_texts: int

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value of the paired bootstrap is below 0.05."""
        return self.p_bootstrap < 0.05

    @property
    def exceeds_run_error(self) -> bool:
        """Whether the difference is more than twice its standard error over the runs; True where that is unknown."""
        return self.run_error is None or abs(self.difference) > 2 * self.run_error


@dataclass(frozen=True)
class _Classifier:
    """One classifier's predictions on one set of test texts, with the resampled score."""

    predictions: Ints
    resampled: Floats
    score: float


# Digest of the test texts to the texts and the predictions of each run on them.
_ByTexts = dict[str, tuple[Predictions, list[_Classifier]]]


class PairedBootstrap:
    """Compares settings on the same bootstrap draws of test texts; predictions are read once."""

    def __init__(self, score: str = "f1") -> None:
        """Compares one of ``scores.SCORES``; draws are made when a set of test texts occurs first."""
        self._score = SCORES[score]
        self._draws: dict[str, Ints] = {}
        self._known: dict[object, _ByTexts] = {}

    def _resample(self, texts: Predictions, predictions: Ints) -> _Classifier:
        if texts.digest not in self._draws:
            self._draws[texts.digest] = draw_texts(len(texts.labels), seed=len(self._draws))
        n_labels = len(texts.names)
        once = np.ones((1, len(texts.labels)), dtype=np.int64)
        return _Classifier(
            predictions,
            resampled(self._draws[texts.digest], texts.labels, predictions, n_labels, self._score),
            float(resampled(once, texts.labels, predictions, n_labels, self._score)[0]),
        )

    def compare(self, winner: Setting, other: Setting, own_name: str, name: str) -> Comparison | None:
        """Compares the winner with another setting; None where they share no readable test texts.

        Args:
            winner: The winner.
            other: The other setting.
            own_name: Name of the winner.
            name: Name of the other setting.
        """
        return self._pair(self._by_texts(winner), self._by_texts(other), own_name, name)

    def compare_baseline(self, winner: Setting, baseline: Baseline) -> Comparison | None:
        """Compares the winner with the baseline; None where predictions of a run of the winner are not readable."""
        first = self._by_texts(winner)
        second = {
            digest: (texts, [self._resample(texts, predictions) for predictions in baseline.on(texts)])
            for digest, (texts, _) in first.items()
        }
        readable = sum(len(runs) for _, runs in first.values())
        if readable < len(winner.runs) or not all(runs for _, runs in second.values()):
            return None  # the difference would not match the scores that the report shows
        fixed = len(baseline.predictions) == 1
        return self._pair(first, second, "the winner", "the TF-IDF baseline", fixed)

    def _by_texts(self, setting: Setting) -> _ByTexts:
        if setting.key in self._known:
            return self._known[setting.key]
        found = self._known[setting.key] = {}
        for run in setting.runs:
            try:
                texts = read_test_predictions(run)
            except (OSError, ValueError):
                continue  # the caller notes a setting without readable predictions
            found.setdefault(texts.digest, (texts, []))[1].append(self._resample(texts, texts.predictions))
        return found

    def _pair(
        self, first: _ByTexts, second: _ByTexts, own_name: str, name: str, fixed: bool = False
    ) -> Comparison | None:
        common = [digest for digest in first if digest in second]
        if not common:
            return None
        difference, resampled = [], []
        discordant: Counter[str] = Counter()
        for digest in common:
            texts, ours = first[digest]
            theirs = second[digest][1]
            difference.append(np.mean([c.score for c in ours]) - np.mean([c.score for c in theirs]))
            resampled.append(
                np.mean([c.resampled for c in ours], axis=0) - np.mean([c.resampled for c in theirs], axis=0)
            )
            right, other_right = ours[0].predictions == texts.labels, theirs[0].predictions == texts.labels
            discordant["first"] += int((right & ~other_right).sum())
            discordant["second"] += int((other_right & ~right).sum())
        differences = np.mean(resampled, axis=0)
        return Comparison(
            winner=own_name,
            other=name,
            difference=float(np.mean(difference)),
            interval=percentile_ci95(differences),
            p_bootstrap=bootstrap_p_value(differences),
            p_mcnemar=mcnemar(discordant["first"], discordant["second"]),
            run_error=_run_error(
                [([c.score for c in first[d][1]], [c.score for c in second[d][1]]) for d in common], fixed
            ),
            only_winner=discordant["first"],
            only_other=discordant["second"],
            n_texts=len({i for digest in common for i in first[digest][0].ids}),
        )


def _run_error(scores: Sequence[tuple[Sequence[float], Sequence[float]]], fixed: bool) -> float | None:
    """Standard error of the difference over seeds and folds; None where a side has a single run.

    Args:
        scores: Both sides' scores on each set of test texts.
        fixed: Whether the other side does not depend on a seed.
    """
    if len(scores) > 1:
        differences = [float(np.mean(ours) - np.mean(theirs)) for ours, theirs in scores]
        return standard_error(differences)
    ours, theirs = standard_error(scores[0][0]), 0.0 if fixed else standard_error(scores[0][1])
    return None if ours is None or theirs is None else float(np.hypot(ours, theirs))


def compared_settings(settings: Sequence[Setting], winner: Setting) -> list[Setting]:
    """The settings to compare with the winner: the second best on val, and the best for each value of each axis."""
    by_val = sorted(settings, key=lambda s: -s.goodness)
    chosen = [s for s in by_val if s is not winner][:1]
    for axis in AXES:
        chosen += [s for s in best_per(settings, axis) if s is not winner]
    unique = list({s.key: s for s in chosen}.values())
    return unique[:MAX_PAIRS]


def holm_corrected(pairs: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p-values corrected for their number."""
    boot, exact = holm([p.p_bootstrap for p in pairs]), holm([p.p_mcnemar for p in pairs])
    return [replace(p, p_bootstrap=b, p_mcnemar=m) for p, b, m in zip(pairs, boot, exact, strict=True)]


def sentence(winner: str, other: str, pair: Comparison) -> str:
    """A comparison in words; a negative difference means that the winner scored lower.

    Args:
        winner: Name of the winner.
        other: Name of the other setting.
        pair: The comparison.
    """
    points, (low, high) = 100 * pair.difference, (100 * x for x in pair.interval)
    if not pair.significant:
        return (
            f"The difference between {winner} and {other} ({points:.2f} points) is not significant on "
            f"{pair.n_texts:,} texts."
        )
    better, worse = (winner, other) if points > 0 else (other, winner)
    low, high = (low, high) if points > 0 else (-high, -low)
    found = (
        f"The difference between {better} and {worse} ({abs(points):.2f} points, 95 %: {low:.2f} to {high:.2f}) is "
        f"significant on {pair.n_texts:,} texts"
    )
    if pair.run_error is not None and not pair.exceeds_run_error:
        error = f"its standard error over the runs is {100 * pair.run_error:.2f} points"
        return f"{found}, but other seeds or folds could reverse it: {error}."
    return f"{found}: {better} is better."
