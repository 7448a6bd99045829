"""The smallest sufficient model: what the settings cost that are not significantly worse than the winner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_cls.metrics.statistics import mean_sd
from llm_cls.reporting.baseline import Baseline
from llm_cls.reporting.comparison import MAX_PAIRS, Comparison, PairedBootstrap
from llm_cls.reporting.names import name_setting
from llm_cls.reporting.runs import Run
from llm_cls.reporting.settings import Setting
from llm_cls.reporting.tables import Column, Table

NAME = "sufficient"
_COLUMNS = (
    Column("setting", "Setting"),
    Column("ms_per_text", "ms per text", "number"),
    Column("gib", "GiB", "number"),
    Column("seconds", "Device-seconds to train", "number"),
    Column("score", "Test score", "percent"),
    Column("difference", "Below the winner", "points"),
    Column("low", "95 % low", "points"),
    Column("high", "95 % high", "points"),
    Column("p", "p", "number"),
    Column("hardware", "Measured on"),
)


@dataclass(frozen=True)
class _Candidate:
    """A setting or the baseline, with what it costs as far as that was recorded; its comparison is None if it won."""

    name: str
    score: float
    pair: Comparison | None
    ms_per_text: float | None
    gib: float | None
    seconds: float | None
    hardware: str

    @property
    def worse(self) -> bool:
        """Whether it is significantly worse than the winner."""
        return self.pair is not None and self.pair.difference > 0 and self.pair.significant

    def row(self) -> dict[str, Any]:
        """Its row of the table."""
        row: dict[str, Any] = {
            "setting": self.name, "ms_per_text": self.ms_per_text, "gib": self.gib, "seconds": self.seconds,
            "score": self.score, "hardware": self.hardware or None,
        }  # fmt: skip
        for key in ("ms_per_text", "gib", "seconds"):
            row[key] = None if row[key] is None else float(f"{row[key]:.4g}")
        if self.pair is not None:
            low, high = self.pair.interval
            row |= {"difference": self.pair.difference, "low": low, "high": high, "p": round(self.pair.p_bootstrap, 4)}
        return row


def sufficient_table(
    bootstrap: PairedBootstrap,
    settings: Sequence[Setting],
    winner: Setting,
    baseline: Baseline | None,
    versus: Comparison | None,
) -> Table | None:
    """The settings that are not significantly worse than the winner, the cheapest first; None for a single one.

    The p-values are those of the paired bootstrap of the report, without correction: a correction would make it easier
    to be not significantly worse.

    Args:
        bootstrap: Of the report.
        settings: The scored settings; of more than ``MAX_PAIRS`` the best ones on val take part.
        winner: The best one on val.
        baseline: The classical baseline.
        versus: Its comparison with the winner, not corrected.
    """
    ranked = sorted((s for s in settings if s.has_test and s is not winner), key=lambda s: -s.goodness)
    shown = [winner, *ranked[:MAX_PAIRS]]
    candidates = [_candidate(winner, shown, None)]
    for other in shown[1:]:
        both = (winner, other)
        pair = bootstrap.compare(winner, other, name_setting(winner, both), name_setting(other, both))
        if pair is not None:
            candidates.append(_candidate(other, shown, pair))
    if baseline is not None and versus is not None:
        ms, gib = baseline.cost
        name = "TF-IDF with logistic regression"
        candidates.append(_Candidate(name, baseline.score, versus, ms, gib, None, "CPU of the report"))
    if len(candidates) < 2:
        return None
    kept = [one for one in candidates if not one.worse]
    by, kept = _ordered(kept)
    left = len(candidates) - len(kept)
    return Table(NAME, "Smallest sufficient model", _note(kept, by, left), _COLUMNS, tuple(c.row() for c in kept))


def _candidate(setting: Setting, among: Sequence[Setting], pair: Comparison | None) -> _Candidate:
    hardware = sorted({str(run.record.hardware) for run in setting.runs if run.record and run.record.hardware})
    return _Candidate(
        name_setting(setting, among),
        setting.score,
        pair,
        _mean([_ms_per_text(run) for run in setting.runs]),
        _mean([run.metrics.peak_memory_gib for run in setting.runs if run.metrics]),
        _mean(
            [run.metrics.seconds.total * run.record.world_size for run in setting.runs if run.metrics and run.record]
        ),
        ", ".join(hardware),
    )


def _ms_per_text(run: Run) -> float | None:
    """Device-milliseconds per test text, as the run has measured them; None for runs of earlier versions."""
    if run.metrics is None or run.record is None or run.metrics.seconds.test is None or not run.record.data.n_test:
        return None
    return 1000 * run.metrics.seconds.test * run.record.world_size / run.record.data.n_test


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value]
    return mean_sd(known)[0] if known else None


def _ordered(candidates: Sequence[_Candidate]) -> tuple[str, list[_Candidate]]:
    """What is compared, and the candidates from cheap to dear: by the first cost that all of them have."""
    for key, words in (("ms_per_text", "milliseconds per text"), ("gib", "memory"), ("seconds", "time to train")):
        if all(getattr(one, key) is not None for one in candidates):
            return words, sorted(candidates, key=lambda one: (getattr(one, key), one.gib or 0.0))
    known = [one for one in candidates if one.gib is not None]
    return "memory, where it is known", [
        *sorted(known, key=lambda one: one.gib or 0.0),
        *(one for one in candidates if one.gib is None),
    ]


def _note(kept: Sequence[_Candidate], by: str, left: int) -> str:
    cheapest = kept[0]
    if cheapest.pair is None:
        which = f"The cheapest is the winner itself, {cheapest.name}."
    else:
        difference, high = 100 * cheapest.pair.difference, max(0.0, 100 * cheapest.pair.interval[1])
        side = "below" if difference >= 0 else "above"
        which = (
            f"The cheapest is {cheapest.name}: {abs(difference):.2f} points {side} the winner, with 95 % confidence at "
            f"most {high:.2f} below."
        )
    others = "1 other is" if left == 1 else f"{left} others are"
    return (
        f"{which} These settings are not significantly worse than the winner (paired bootstrap, p >= 0.05, not "
        f"corrected), ordered by {by}; {others} worse. Few test texts hide real differences: look at the interval. ms "
        "per text is the time in which the run has scored its test texts, times its devices; GiB of a run is the peak "
        "of its training, of TF-IDF the size of the fitted model."
    )
