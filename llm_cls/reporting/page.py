"""``report.html``: the sections and their order."""

from typing import Any

from llm_cls.reporting import charts
from llm_cls.reporting.analysis import Analysis
from llm_cls.reporting.baseline import DESCRIPTION
from llm_cls.reporting.charts import figure
from llm_cls.reporting.comparison import Comparison
from llm_cls.reporting.html import page, paragraphs, plots, results_table, rows_table
from llm_cls.reporting.markup import Safe, join, tag
from llm_cls.reporting.names import full_name, replicates
from llm_cls.reporting.provenance import provenance_section
from llm_cls.reporting.published import SOURCE, SOURCE_URL, published
from llm_cls.reporting.settings import best_per
from llm_cls.reporting.tables import Column, Table
from llm_cls.reporting.winner import texts_section, winner_section

Section = tuple[str, str, Safe]


def render(found: Analysis, name: str, created: str) -> str:
    """The page as HTML.

    Args:
        found: What it says.
        name: Of the directory reported on.
        created: When, for the record.
    """
    sections: list[Section] = [("summary", "Summary", _summary(found))]
    sections += _results(found)
    if found.comparisons:
        sections.append(("comparisons", "How sure is that", _comparisons(found)))
    if found.winner is not None and found.texts is not None:
        run = found.winner.best_run
        livedoor = run.record is not None and run.record.data.name == "livedoor"
        sections.append(("winner", "The winner in detail", winner_section(run, found.texts)))
        sections.append(("texts", "Test texts", texts_section(found.texts, livedoor)))
    if (costs := _costs(found)) is not None:
        sections.append(("cost", "F1 against cost", costs))
    sections += [(table.name, table.title, results_table(table)) for table in found.tables if table.name == "all"]
    sections.append(("provenance", "Configuration and provenance", provenance_section(found.runs)))
    states = ", ".join(f"{count:,} {state}" for state, count in found.states.items())
    header = tag("p", f"{len(found.runs):,} runs: {states}. Made {created}.", class_="soft")
    return page(f"Report: {name}", header, sections, _methods())


def _summary(found: Analysis) -> Safe:
    winner = found.winner
    if winner is None:
        return paragraphs(*found.notes)
    f1, interval = 100 * winner.test("f1"), winner.interval
    words = f"95 %: {100 * interval[0]:.2f} to {100 * interval[1]:.2f}" if interval else None
    figures = [
        _figure("Test F1 (%)", f"{f1:.2f}", words),
        _figure("Val F1 (%)", f"{100 * winner.val_f1:.2f}", None),
        _figure("Test accuracy (%)", f"{100 * winner.test('accuracy'):.2f}", None),
    ]
    if winner.test_f1_sd is not None:
        figures.append(_figure("SD of test F1", f"{100 * winner.test_f1_sd:.2f}", replicates(winner)))
    if found.baseline is not None:
        low, high = (100 * x for x in found.baseline.interval)
        figures.append(
            _figure("TF-IDF baseline", f"{100 * found.baseline.scores.f1:.2f}", f"95 %: {low:.2f} to {high:.2f}")
        )
    if (reference := published(winner)) is not None:
        figures.append(_figure("Published F1", f"{100 * reference['test_f1']:.2f}", None))
    others = len(found.settings) - 1
    chosen = (
        f"Best val F1 of {others + 1:,} settings; test took no part in the choice." if others else "The only setting."
    )
    card = tag(
        "div",
        tag("p", f"Winner: {found.name}", class_="name"),
        tag("p", full_name(winner)),
        tag("dl", *figures, class_="figures"),
        tag("p", chosen, class_="soft"),
        class_="winner",
    )
    return join([card, paragraphs(*found.verdict(), *found.notes)])


def _figure(name: str, value: str, more: str | None) -> Safe:
    small = tag("small", more) if more else None
    return tag("div", tag("dt", name), tag("dd", value, " " if small else None, small))


def _results(found: Analysis) -> list[Section]:
    """A section for each results table, with its plot."""
    baseline = found.baseline.scores.f1 if found.baseline is not None else None
    settings = found.settings
    crosses = "Crosses are collapsed or diverged runs, arrows on the lower edge settings too far below to show."
    drawings = {
        "best": (charts.by_model(settings, baseline), "Best setting of each model, scored on test."),
        "lr": (charts.by_lr(settings, baseline, found.runs), f"{crosses}{charts.lr_note(settings)}"),
        "template": (charts.by_axis(settings, "template", "template"), "Best setting for each template."),
        "batch_size": (charts.by_axis(settings, "batch_size", "batch size"), "Best setting for each batch size."),
        "r": (charts.by_axis(settings, "lora_r", "LoRA r"), "Best setting for each rank."),
    }
    sections = []
    for table in found.tables:
        if table.name in drawings:
            drawing, caption = drawings[table.name]
            sections.append(
                (table.name, table.title, join([plots(figure(drawing, caption)), _with_baseline(table, found)]))
            )
    if (curves := _curves(found)) is not None:
        sections.append(("curves", "Learning curves", curves))
    return sections


def _with_baseline(table: Table, found: Analysis) -> Safe:
    """The table; that of the models has the baseline as its last row."""
    if table.name != "best" or found.baseline is None:
        return results_table(table)
    scores, (low, high) = found.baseline.scores, found.baseline.interval
    row: dict[str, Any] = {"model": "TF-IDF baseline", "test_f1_low": low, "test_f1_high": high}
    row |= {f"test_{name}": getattr(scores, name) for name in ("accuracy", "precision", "recall", "f1")}
    return rows_table(table.title, table.note, table.shown_columns, [*table.rows, row])


def _curves(found: Analysis) -> Safe | None:
    settings = [s for s in found.settings if not s.collapsed] or found.settings  # their losses would hide the others
    chosen = list({s.key: s for s in (found.winner, *best_per(settings, "model")) if s is not None}.values())
    if len(chosen) < 4:  # a single model: its best settings, too
        ranked = sorted(settings, key=lambda s: -s.val_f1)[:4]
        chosen = list({s.key: s for s in (*chosen, *ranked)}.values())[:4]
    curves = charts.learning_curves(chosen)
    if not curves:
        return None
    captions = ("The best epoch is chosen on this curve.", "The same runs in the same colours; dashed: train loss.")
    drawn = [figure(curve, caption) for curve, caption in zip(curves, captions, strict=False)]
    return plots(*drawn)


def _comparisons(found: Analysis) -> Safe:
    columns = (
        Column("other", "Winner against"),
        Column("difference", "Difference", "points"),
        Column("low", "95 % low", "points"),
        Column("high", "95 % high", "points"),
        Column("p_bootstrap", "p (bootstrap)", "number"),
        Column("p_mcnemar", "p (McNemar)", "number"),
        Column("only_winner", "Only winner right", "number"),
        Column("only_other", "Only other right", "number"),
        Column("told_apart", "Told apart"),
    )
    rows = []
    for pair in found.comparisons:
        row = {column.key: getattr(pair, column.key, None) for column in columns}
        row |= {"low": pair.interval[0], "high": pair.interval[1], "told_apart": _told_apart(pair)}
        row |= {"p_bootstrap": float(f"{pair.p_bootstrap:.2g}"), "p_mcnemar": float(f"{pair.p_mcnemar:.2g}")}
        rows.append(row)
    n_texts = [pair.n_texts for pair in found.comparisons]  # fewer where the other lacks a fold
    texts = " to ".join(f"{n:,}" for n in sorted({min(n_texts), max(n_texts)}))
    note = (
        f"Test F1 of the winner ({found.name}) minus that of another, which is named by what differs, in points, on "
        f"the same {texts} texts. p-values are "
        f"Holm-corrected over {len(rows)} pair{'s' if len(rows) > 1 else ''}; told apart: bootstrap p below 0.05, and "
        "where both sides have several runs, a difference of more than twice its standard error over them."
    )
    return rows_table("Comparisons", note, columns, rows)


def _told_apart(pair: Comparison) -> str:
    if not pair.told_apart:
        return "no"
    return "yes" if pair.holds_over_runs else "on these runs only"


def _costs(found: Analysis) -> Safe | None:
    on_gpus = all("CPU" not in str(run.record.hardware) for run in found.runs if run.scored and run.record)
    seconds = charts.cost(found.settings, "seconds", "GPU-seconds" if on_gpus else "device-seconds")
    memory = charts.cost(found.settings, "memory", "GiB")
    return plots(
        figure(seconds, "Wall-clock time of a run times its devices; of repeated settings the mean over the runs."),
        figure(memory, "Peak memory of one device."),
    )


def _methods() -> Safe:
    chosen = (
        "Settings are chosen on val F1 and scored on test. F1, precision and recall are macro means over all "
        "labels, 0 where undefined. Intervals are 95 % percentile bootstrap intervals over test texts (2,000 "
        "resamples): they say how far another sample of texts could move the figure, not how far another seed "
        "could; for repeated settings their bounds are means over the runs. Comparisons draw the same texts for "
        "both sides; McNemar's test takes one run of each."
    )
    link = tag("a", SOURCE_URL, href=SOURCE_URL, rel="noopener noreferrer")
    same = (
        ", one seed each; beside ours where model, template, learning rate, batch size, r, the split and the rest of "
        "the recipe (epochs, length, LoRA, optimizer) are the same."
    )
    source = tag("p", f"Published figures: {SOURCE}, ", link, same)
    baseline = (
        f"The baseline is {DESCRIPTION}. Where the winner has several splits or folds, it is fitted on each, and its "
        "figures and bounds are means over them."
    )
    return join([tag("h2", "Methods"), paragraphs(chosen, baseline), source])
