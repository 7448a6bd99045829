"""Computes everything in the report before anything is written."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_cls.metrics.percent import percent
from llm_cls.metrics.selection import MONITORS, Monitor
from llm_cls.reporting.baseline import Baseline, baseline_of
from llm_cls.reporting.comparison import Comparison, PairedBootstrap, compared_settings, holm_corrected, sentence
from llm_cls.reporting.corpora import data_note, data_sets_table, monitor_note, same_data, same_monitor
from llm_cls.reporting.cost import sufficient_table
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
        monitor: What selected the epochs of the runs, and selects among settings.
        winner: The setting with the best val figure; None where nothing is scored.
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
    monitor: Monitor = MONITORS["f1"]
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


def analyse(directory: Path, data: str | None, with_baseline: bool, monitor: str | None = None) -> Analysis:
    """Reads and compares all runs below ``directory``.

    Args:
        directory: The directory of the report.
        data: Name, file or beginning of the digest of the data; None for the data of most runs.
        with_baseline: Whether the classical baseline is fitted or read from its cache.
        monitor: What selected the runs that are compared; None for that of most runs.

    Raises:
        ConfigError: No scored run is on the data ``data``, or was selected by ``monitor``.
    """
    read = read_runs(directory)
    of_data = same_data(read, data)
    runs = tuple(same_monitor(of_data, monitor))
    settings = tuple(group(runs))
    tables = tuple([*all_tables(runs, settings), *data_sets_table(read)])
    if not settings:
        return Analysis(runs, settings, tables, notes=("No run is finished: there is nothing to score.",))
    winner = best(settings)
    name = name_setting(winner, settings)
    notes = [*data_note(read, runs), *monitor_note(of_data, runs)]
    if not winner.has_test:
        notes.append(NO_TEST)
        return Analysis(runs, settings, tables, winner.monitor, winner, name, notes=tuple(notes))
    texts = _texts(winner.best_run, notes)
    bootstrap = PairedBootstrap(winner.monitor.on_test)
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
    baseline, why = None, "it is switched off by baseline=false"
    if with_baseline:
        baseline, why = baseline_of(winner.runs, winner.monitor.on_test)
    versus = bootstrap.compare_baseline(winner, baseline) if baseline is not None else None
    if baseline is None:
        notes.append(f"No classical baseline: {why}.")
    elif versus is None:
        notes.append(
            "The baseline is not compared with the winner: not all of the winner's runs have readable predictions on "
            "the same texts."
        )
    if (sufficient := sufficient_table(bootstrap, settings, winner, baseline, versus)) is not None:
        tables = (*tables, sufficient)
    adjusted = holm_corrected([*pairs, versus] if versus else pairs)
    others = adjusted[: len(pairs)]
    return Analysis(
        runs, settings, tables, winner.monitor, winner, name, texts, tuple(adjusted),
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
            shown = found.monitor.show(found.winner.val_score)
            return [*lines, f"Winner on val: {found.name}, val {found.monitor.title} {shown}", *found.notes]
        score, interval = percent(found.winner.score), found.winner.interval
        title = MONITORS[found.monitor.on_test].title
        words = f" (95 % interval: {percent(interval[0])} to {percent(interval[1])})" if interval else ""
        sd = found.winner.score_sd
        spread = f", standard deviation {percent(sd)} over {len(found.winner.runs)} runs" if sd is not None else ""
        lines.append(f"Winner on val {found.monitor.title}: {found.name}, test {title} {score} %{words}{spread}")
    if found.baseline is not None:
        lines.append(f"TF-IDF baseline: test {MONITORS[found.monitor.on_test].title} {percent(found.baseline.score)} %")
    return [*lines, *found.verdict(), *found.notes]
