"""Whether the winner is better than the others, or lucky."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llm_cls.metrics.scores import Floats
from llm_cls.metrics.statistics import (
    Ints,
    bootstrap_p_value,
    draw_texts,
    holm,
    mcnemar,
    percentile_ci95,
    resampled_f1,
    standard_error,
)
from llm_cls.reporting.baseline import Baseline
from llm_cls.reporting.predictions import Predictions, read_test_predictions
from llm_cls.reporting.settings import AXES, Setting, best_per

# Of 2,000 resamples the smallest p-value is 0.001: corrected for more than 50 pairs none could be below 0.05.
MAX_PAIRS = 40


@dataclass(frozen=True)
class Comparison:
    """The winner against another on the same test texts.

    Attributes:
        winner, other: Names of the two, by what differs between them.
        difference: Mean test F1 of the winner minus that of the other.
        interval: 95 % of the difference, by the paired bootstrap.
        p_bootstrap, p_mcnemar: Two-sided, Holm-corrected over all pairs of the report.
        run_error: Standard error of the difference over seeds or folds; None where either has a single run.
        only_winner, only_other: Texts that one alone has right, of one run each.
        n_texts: Different test texts.
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
    def told_apart(self) -> bool:
        """Whether the corrected paired bootstrap finds a difference at 5 %."""
        return self.p_bootstrap < 0.05

    @property
    def holds_over_runs(self) -> bool:
        """Whether other seeds or folds would hardly turn the difference around; unknown for single runs: True."""
        return self.run_error is None or abs(self.difference) > 2 * self.run_error


@dataclass(frozen=True)
class _Judged:
    """One classifier's predictions on one set of test texts, with resampled F1."""

    predictions: Ints
    resampled: Floats
    f1: float


# Digest of the texts to the texts and what each run of a setting said of them.
_ByTexts = dict[str, tuple[Predictions, list[_Judged]]]


class Judge:
    """Compares settings by common bootstrap draws: the same texts are drawn for everyone."""

    def __init__(self) -> None:
        """Starts without draws; each set of texts gets its own at its first use."""
        self._draws: dict[str, Ints] = {}
        self._known: dict[object, _ByTexts] = {}

    def _judge(self, texts: Predictions, predictions: Ints) -> _Judged:
        if texts.digest not in self._draws:
            self._draws[texts.digest] = draw_texts(len(texts.labels), seed=len(self._draws))
        n_labels = len(texts.names)
        once = np.ones((1, len(texts.labels)), dtype=np.int64)
        return _Judged(
            predictions,
            resampled_f1(self._draws[texts.digest], texts.labels, predictions, n_labels),
            float(resampled_f1(once, texts.labels, predictions, n_labels)[0]),
        )

    def compare(self, winner: Setting, other: Setting, own_name: str, name: str) -> Comparison | None:
        """The winner against another setting; None where they have no readable test texts in common."""
        first, second = self._by_texts(winner), self._by_texts(other)
        return self._pair(first, second, own_name, name)

    def compare_baseline(self, winner: Setting, baseline: Baseline) -> Comparison | None:
        """The winner against the classical baseline; None where a run of the winner can't take part."""
        first = self._by_texts(winner)
        second = {
            digest: (texts, [self._judge(texts, predictions) for predictions in baseline.on(texts)])
            for digest, (texts, _) in first.items()
        }
        readable = sum(len(judged) for _, judged in first.values())
        if readable < len(winner.runs) or not all(judged for _, judged in second.values()):
            return None  # the difference would be another one than that between the figures of both
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
                continue  # the section on damaged files has it
            found.setdefault(texts.digest, (texts, []))[1].append(self._judge(texts, texts.predictions))
        return found

    def _pair(
        self,
        first: _ByTexts,
        second: _ByTexts,
        own_name: str,
        name: str,
        fixed: bool = False,
    ) -> Comparison | None:
        common = [digest for digest in first if digest in second]
        if not common:
            return None
        difference, resampled = [], []
        discordant: Counter[str] = Counter()
        for digest in common:
            texts, ours = first[digest]
            theirs = second[digest][1]
            difference.append(np.mean([j.f1 for j in ours]) - np.mean([j.f1 for j in theirs]))
            resampled.append(
                np.mean([j.resampled for j in ours], axis=0) - np.mean([j.resampled for j in theirs], axis=0)
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
            run_error=_run_error([([j.f1 for j in first[d][1]], [j.f1 for j in second[d][1]]) for d in common], fixed),
            only_winner=discordant["first"],
            only_other=discordant["second"],
            n_texts=len({i for digest in common for i in first[digest][0].ids}),
        )


def _run_error(f1: Sequence[tuple[Sequence[float], Sequence[float]]], fixed: bool) -> float | None:
    """How far seeds and folds move a difference, from the F1 of both sides' runs on each set of test texts.

    Args:
        f1: Both sides' F1 on each set of test texts.
        fixed: Whether no seed changes the other side.
    """
    if len(f1) > 1:
        differences = [float(np.mean(ours) - np.mean(theirs)) for ours, theirs in f1]
        return standard_error(differences)
    ours, theirs = standard_error(f1[0][0]), 0.0 if fixed else standard_error(f1[0][1])
    return None if ours is None or theirs is None else float(np.hypot(ours, theirs))


def rivals(settings: Sequence[Setting], winner: Setting) -> list[Setting]:
    """Whom the winner is compared with: the second best on val, and the best of each other value of each axis."""
    by_val = sorted(settings, key=lambda s: -s.val_f1)
    chosen = [s for s in by_val if s is not winner][:1]
    for axis in AXES:
        chosen += [s for s in best_per(settings, axis) if s is not winner]
    unique = list({s.key: s for s in chosen}.values())
    return unique[:MAX_PAIRS]


def corrected(pairs: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with p-values corrected for their number."""
    boot, exact = holm([p.p_bootstrap for p in pairs]), holm([p.p_mcnemar for p in pairs])
    return [replace(p, p_bootstrap=b, p_mcnemar=m) for p, b, m in zip(pairs, boot, exact, strict=True)]


def sentence(winner: str, other: str, pair: Comparison) -> str:
    """What a comparison means, in plain words; a negative difference is to the winner's disadvantage.

    Args:
        winner: Name of the winner, beside that of the other.
        other: Name of the other, beside that of the winner.
        pair: The comparison.
    """
    points, (low, high) = 100 * pair.difference, (100 * x for x in pair.interval)
    if not pair.told_apart:
        return (
            f"The difference between {winner} and {other} ({points:.2f} points) is within what "
            f"{pair.n_texts:,} texts can tell apart."
        )
    better, worse = (winner, other) if points > 0 else (other, winner)
    low, high = (low, high) if points > 0 else (-high, -low)
    found = (
        f"The difference between {better} and {worse} ({abs(points):.2f} points, 95 %: {low:.2f} to {high:.2f}) is "
        f"more than chance explains on {pair.n_texts:,} texts"
    )
    if pair.run_error is not None and not pair.holds_over_runs:
        error = f"its standard error over the runs is {100 * pair.run_error:.2f} points"
        return f"{found}, but not more than other seeds or folds could undo: {error}."
    return f"{found}: {better} is better."
