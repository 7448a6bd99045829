"""Computes everything in the report before anything is written."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_cls.metrics.percent import percent
from llm_cls.reporting.baseline import Baseline, baseline_of
from llm_cls.reporting.comparison import Comparison, PairedBootstrap, compared_settings, holm_corrected, sentence
from llm_cls.reporting.corpora import same_data
from llm_cls.reporting.names import name_setting
from llm_cls.reporting.predictions import read_test_predictions
from llm_cls.reporting.runs import Run, describe_error, read_runs
from llm_cls.reporting.settings import Setting, best, group
from llm_cls.reporting.tables import Table, all_tables
from llm_cls.runs.predictions import Predictions

NO_TEST = (
    "The data has no test split: all scores are those of val, by which epochs and settings are chosen, so they are too "
    "high. Comparisons and the baseline need test texts."
)


@dataclass(frozen=True)
class Analysis:
    """The results of the analysis.

    Attributes:
        runs: Every run found.
        settings: The scored runs, grouped.
        tables: All tables.
        winner: The setting with the best val F1; None where nothing is scored.
        name: Name of the winner.
        texts: Test predictions of the winner's best run; None where they cannot be read.
        comparisons: The winner against other settings, with corrected p-values.
        runner_up: The comparison with the second best on val.
        against_baseline: The comparison with the baseline.
        baseline: The classical baseline on the winner's splits, if it could be fitted.
        notes: What is missing from the report and why, in sentences.
    """

    runs: tuple[Run, ...]
    settings: tuple[Setting, ...]
    tables: tuple[Table, ...]
    winner: Setting | None = None
    name: str = ""
    texts: Predictions | None = None
    comparisons: tuple[Comparison, ...] = ()
    runner_up: Comparison | None = None
    against_baseline: Comparison | None = None
    baseline: Baseline | None = None
    notes: tuple[str, ...] = ()

    @property
    def states(self) -> dict[str, int]:
        """Number of runs in each state, the most frequent first."""
        return dict(Counter(run.state for run in self.runs).most_common())

    def verdict(self) -> list[str]:
        """What the comparisons with the second best and with the baseline mean, in sentences."""
        lines = []
        if self.runner_up is not None:
            pair = self.runner_up
            lines.append(sentence(f"the winner ({pair.winner})", f"the second best on val ({pair.other})", pair))
        if self.against_baseline is not None:
            lines.append(sentence("the winner", self.against_baseline.other, self.against_baseline))
        return lines


def analyse(directory: Path, data: str | None, with_baseline: bool) -> Analysis:
    """Reads and compares all runs below ``directory``.

    Args:
        directory: The directory of the report.
        data: Name or beginning of the digest of the corpus; None for the corpus of most runs.
        with_baseline: Whether the classical baseline is fitted or read from its cache.

    Raises:
        ConfigError: No scored run is on the corpus ``data``.
    """
    runs = tuple(same_data(read_runs(directory), data))
    settings = tuple(group(runs))
    tables = tuple(all_tables(runs, settings))
    if not settings:
        return Analysis(runs, settings, tables, notes=("No run is finished: there is nothing to score.",))
    winner = best(settings)
    name = name_setting(winner, settings)
    notes: list[str] = []
    if not winner.has_test:
        notes.append(NO_TEST)
        return Analysis(runs, settings, tables, winner, name, notes=tuple(notes))
    texts = _texts(winner.best_run, notes)
    bootstrap = PairedBootstrap()
    pairs: list[Comparison] = []
    second: str | None = None
    for i, other in enumerate(compared_settings(settings, winner)):
        both = (winner, other)
        other_name = name_setting(other, both)
        second = other_name if i == 0 else second
        pair = bootstrap.compare(winner, other, name_setting(winner, both), other_name)
        if pair is None:
            notes.append(f"Not compared: {other_name} (no readable predictions on the winner's test texts).")
        else:
            pairs.append(pair)
    baseline, why = baseline_of(winner.runs) if with_baseline else (None, "it is switched off by baseline=false")
    versus = bootstrap.compare_baseline(winner, baseline) if baseline is not None else None
    if baseline is None:
        notes.append(f"No classical baseline: {why}.")
    elif versus is None:
        notes.append(
            "The baseline is not compared with the winner: not all of the winner's runs have readable predictions on "
            "the same texts."
        )
    adjusted = holm_corrected([*pairs, versus] if versus else pairs)
    others = adjusted[: len(pairs)]
    return Analysis(
        runs, settings, tables, winner, name, texts, tuple(adjusted),
        runner_up=next((pair for pair in others if pair.other == second), None),
        against_baseline=adjusted[-1] if versus else None, baseline=baseline, notes=tuple(notes),
    )  # fmt: skip


def _texts(run: Run, notes: list[str]) -> Predictions | None:
    try:
        return read_test_predictions(run)
    except (OSError, ValueError) as error:
        notes.append(f"The winner's test texts are not shown: predictions/test.jsonl: {describe_error(error)}.")
        return None


def summary(found: Analysis) -> Sequence[str]:
    """The lines that the command prints: the states, the winner, the comparisons, the notes."""
    states = ", ".join(f"{count} {state}" for state, count in found.states.items())
    lines = [f"{len(found.runs)} run{'s' if len(found.runs) != 1 else ''}: {states}"]
    if found.winner is not None:
        if not found.winner.has_test:
            return [*lines, f"Winner on val: {found.name}, val F1 {percent(found.winner.val_f1)} %", *found.notes]
        f1, interval = percent(found.winner.test("f1")), found.winner.interval
        words = f" (95 % interval: {percent(interval[0])} to {percent(interval[1])})" if interval else ""
        sd = found.winner.test_f1_sd
        spread = f", standard deviation {percent(sd)} over {len(found.winner.runs)} runs" if sd is not None else ""
        lines.append(f"Winner on val: {found.name}, test F1 {f1} %{words}{spread}")
    if found.baseline is not None:
        lines.append(f"TF-IDF baseline: test F1 {percent(found.baseline.scores.f1)} %")
    return [*lines, *found.verdict(), *found.notes]
