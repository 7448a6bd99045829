"""``report.html``: the sections, their order, and the template that shows them."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llm_cls.metrics.percent import percent
from llm_cls.metrics.scores import METRICS
from llm_cls.metrics.selection import MONITORS
from llm_cls.reporting import plots
from llm_cls.reporting.analysis import Analysis
from llm_cls.reporting.baseline import DESCRIPTION
from llm_cls.reporting.cost import NAME as SUFFICIENT
from llm_cls.reporting.details import (
    Confusion,
    calibration_of,
    comparisons_table,
    confused_pairs_table,
    confusion_of,
    per_label_table,
    texts_tables,
)
from llm_cls.reporting.drawing import Plot
from llm_cls.reporting.evaluations import evaluations_table
from llm_cls.reporting.formatting import cell, printable, sentence_case
from llm_cls.reporting.names import full_name, replicates
from llm_cls.reporting.provenance import provenance_tables
from llm_cls.reporting.published import SOURCE, SOURCE_URL, published
from llm_cls.reporting.settings import Setting, best_per
from llm_cls.reporting.tables import Table, val_column


@dataclass(frozen=True)
class Section:
    """A section of the page: its anchor and heading, followed by its content in this order."""

    anchor: str
    heading: str
    text: str = ""
    confusion: Confusion | None = None
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()


def render(found: Analysis, name: str, created: str) -> str:
    """The page as HTML: one file that loads nothing.

    The Content-Security-Policy allows the style sheet and the script by their hashes and nothing else, so that markup
    in a title could neither run nor load anything.

    Args:
        found: The analysis.
        name: Name of the directory of the report.
        created: Time of the report, as text.
    """
    environment = Environment(
        loader=PackageLoader("llm_cls.reporting", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_clean,
    )  # fmt: skip
    environment.filters |= {"cell": cell, "japanese": _japanese}
    folder = files("llm_cls.reporting")
    style, script = ((folder / n).read_text(encoding="utf-8") for n in ("style.css", "sort.js"))
    return environment.get_template("page.html.j2").render(
        title=f"Report: {name}", created=created, found=found, figures=_figures(found), sections=_sections(found),
        full_name=full_name, style=Markup(style), script=Markup(script), style_hash=_hash(style),
        script_hash=_hash(script), baseline=DESCRIPTION, source=SOURCE, source_url=SOURCE_URL,
        selected_on=found.monitor.title,
    )  # fmt: skip


def _clean(value: Any) -> Any:
    """What the template prints: nothing for None, and no control characters, which autoescape lets through."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _japanese(text: str) -> str:
    """Text that is not ASCII, marked as Japanese: browsers may otherwise draw the Chinese forms of its characters."""
    return text if text.isascii() else Markup('<span lang="ja">{}</span>').format(printable(text))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _figures(found: Analysis) -> list[tuple[str, str, str]]:
    """The main figures of the winner: name, value, and a remark."""
    winner = found.winner
    if winner is None:
        return []
    monitor, title = winner.monitor, plots.title_of([winner])
    val, other = val_column(monitor), "accuracy" if monitor.on_test == "f1" else "f1"
    rows: list[tuple[str, Any, str]] = [
        (f"Test {title} (%)", percent(winner.score), _interval(winner.interval)),
        (f"{val.heading}{' (%)' if val.kind == 'percent' else ''}", cell(winner.val_score, val.kind), ""),
        (f"Test {MONITORS[other].title} (%)", percent(winner.test(other)), ""),
    ]
    if not winner.has_test:
        rows = rows[1:2]
    elif winner.score_sd is not None:
        rows.append((f"SD of test {title}", percent(winner.score_sd), replicates(winner)))
    if found.baseline is not None:
        rows.append(("TF-IDF baseline", percent(found.baseline.score), _interval(found.baseline.interval)))
    if (reference := published(winner)) is not None:
        rows.append(("Published F1", percent(reference["test_f1"]), ""))
    return [(name, str(value), remark) for name, value, remark in rows]


def _interval(bounds: tuple[float, float] | None) -> str:
    return f"95 %: {percent(bounds[0])} to {percent(bounds[1])}" if bounds else ""


def _sections(found: Analysis) -> list[Section]:
    sections = [Section("summary", "Summary"), *_results(found)]
    if found.comparisons:
        table = comparisons_table(found.comparisons, found.name, plots.title_of(found.settings))
        sections.append(Section("comparisons", "Comparisons with the winner", tables=[table]))
    if found.winner is not None and (texts := found.texts) is not None:
        run = found.winner.best_run
        livedoor = run.record is not None and run.record.data.name == "livedoor"
        text = f"The run of the winner with the best val {found.monitor.title}: {run.name}."
        pairs = confused_pairs_table(texts)
        calibration = plots.reliability_plot(calibration_of(texts))
        sections += [
            Section(
                "winner", "The winner in detail", text, confusion_of(texts), [calibration],
                [*([pairs] if pairs.rows else []), per_label_table(texts)],
            ),
            Section("texts", "Test texts", tables=texts_tables(texts, livedoor)),
        ]  # fmt: skip
    sections += [Section(table.name, table.title, tables=[table]) for table in found.tables if table.name == SUFFICIENT]
    if (evaluations := evaluations_table(found.runs)) is not None:
        sections.append(Section(evaluations.name, evaluations.title, tables=[evaluations]))
    if costs := _costs(found):
        sections.append(Section("cost", f"{sentence_case(plots.title_of(found.settings))} over cost", plots=costs))
    sections += [
        Section(table.name, table.title, tables=[table]) for table in found.tables if table.name in ("data_sets", "all")
    ]
    tables = provenance_tables(found.runs)
    text = "" if tables else "No run has a readable configuration."
    return [*sections, Section("provenance", "Configuration and provenance", text, tables=tables)]


def _results(found: Analysis) -> list[Section]:
    """A section for each results table, with its plot, and one for the learning curves."""
    baseline = found.baseline.score if found.baseline is not None else None
    settings = [setting for setting in found.settings if setting.has_test]
    drawn = {
        "best": plots.by_model(settings, baseline),
        "lr": plots.by_lr(settings, baseline, found.runs),
        "template": plots.by_axis(settings, "template", "template"),
        "batch_size": plots.by_axis(settings, "batch_size", "batch size"),
        "r": plots.by_axis(settings, "lora_r", "LoRA r"),
    }
    sections = []
    for table in found.tables:
        if table.name in drawn:
            plot = drawn[table.name]
            shown = _with_baseline(table, found) if table.name == "best" else table
            sections.append(Section(table.name, table.title, plots=[plot] if plot else (), tables=[shown]))
    if curves := plots.learning_curves(_curve_settings(found)):
        sections.append(Section("curves", "Learning curves", plots=curves))
    return sections


def _with_baseline(table: Table, found: Analysis) -> Table:
    """The table with the baseline as its last row."""
    if found.baseline is None:
        return table
    scores, (low, high) = found.baseline.scores, found.baseline.interval
    score = found.settings[0].monitor.on_test
    row: dict[str, Any] = {"model": "TF-IDF baseline", f"test_{score}_low": low, f"test_{score}_high": high}
    row |= {f"test_{score}": found.baseline.score} | {f"test_{name}": getattr(scores, name) for name in METRICS}
    return replace(table, rows=(*table.rows, row))


def _curve_settings(found: Analysis) -> list[Setting]:
    """The settings whose learning curves are shown: the winner, the best of each model, and others up to four."""
    # The losses of collapsed settings are so high that they would hide the others.
    settings = [s for s in found.settings if not s.collapsed] or found.settings
    ranked = sorted(settings, key=lambda s: -s.goodness)
    models = list({s.key: s for s in (found.winner, *best_per(settings, "model")) if s is not None}.values())
    return models if len(models) >= 4 else list({s.key: s for s in (*models, *ranked[:4])}.values())[:4]


def _costs(found: Analysis) -> list[Plot]:
    on_gpus = all("CPU" not in str(run.record.hardware) for run in found.runs if run.scored and run.record)
    seconds = (
        "Wall-clock time of a run times its devices; of repeated settings the mean over the runs. Crosses are "
        "collapsed runs, arrows on the lower edge settings too far below to show."
    )
    settings = [setting for setting in found.settings if setting.has_test]
    drawn = (
        plots.cost(settings, "seconds", "GPU-seconds" if on_gpus else "device-seconds", seconds),
        plots.cost(settings, "memory", "GiB", "Peak memory of one device."),
    )
    return [plot for plot in drawn if plot is not None]
