"""The tables of the published experiment from run directories, beside the published scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_cls.metrics.scores import METRICS
from llm_cls.metrics.selection import MONITORS, Monitor
from llm_cls.reporting.formatting import Kind, sentence_case
from llm_cls.reporting.published import published
from llm_cls.reporting.runs import Run
from llm_cls.reporting.settings import (
    AXES,
    REPLICATES,
    Setting,
    as_number,
    axes_of,
    best_per,
    shown_lr_series,
    sort_key,
    varied_keys,
)
from llm_cls.runs.steps import count_steps, too_few_steps

# File names, without suffix, of all tables; a report has those whose axis the runs vary.
TABLES = ("best", "template", "lr", "batch_size", "r", "all", "data_sets", "sufficient")


@dataclass(frozen=True)
class Column:
    """A column: its name in the CSV file, its heading on the page and in Markdown, and how its values are written."""

    key: str
    heading: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """A table; CSV has all columns, the page and Markdown have the ``shown`` ones.

    Attributes:
        name: Name of its files, without suffix.
        title: Heading.
        note: What a reader needs to know about the rows.
        columns: All columns.
        shown: Keys of the columns shown; empty: all.
        rows: Column key to value.
    """

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    shown: tuple[str, ...] = ()

    @property
    def shown_columns(self) -> tuple[Column, ...]:
        """The columns of the page and of Markdown, in their order, without empty ones."""
        by_key = {column.key: column for column in self.columns}
        wanted = [by_key[key] for key in self.shown or by_key]
        once = all(row.get("runs") in (1, None) for row in self.rows)
        filled = (c for c in wanted if any(row.get(c.key) is not None for row in self.rows))
        return tuple(c for c in filled if not (once and c.key == "runs"))


_AXES = (
    Column("model", "Model"),
    Column("template", "Template", "number"),
    Column("lr", "LR", "rate"),
    Column("batch_size", "Batch size", "number"),
    Column("lora_r", "LoRA r", "number"),
)
_REPEATED = Column("runs", "Runs", "number")


def _figures(monitor: Monitor) -> tuple[Column, ...]:
    """The best epoch, the val figure that selects, and the test scores."""
    found = [
        Column("best_epoch", "Best epoch", "number"),
        val_column(monitor),
        Column("test_accuracy", "Accuracy", "percent"),
        Column("test_precision", "Precision", "percent"),
        Column("test_recall", "Recall", "percent"),
        Column("test_f1", "F1", "percent"),
    ]
    own = Column(f"test_{monitor.on_test}", sentence_case(monitor.title), "percent")
    return tuple(found) if own.key in {column.key for column in found} else (*found, own)


def val_column(monitor: Monitor) -> Column:
    """The val figure by which settings are chosen."""
    return Column(f"val_{monitor.name}", f"Val {monitor.title}", "percent" if monitor.lowest is not None else "loss")


def _beside(monitor: Monitor) -> tuple[Column, ...]:
    """What belongs to the test score that is compared."""
    return (
        Column("published_test_f1", "Published", "percent"),
        Column("difference", "Difference", "points"),
        Column(f"test_{monitor.on_test}_low", "95 % low", "percent"),
        Column(f"test_{monitor.on_test}_high", "95 % high", "percent"),
    )


def _sd(monitor: Monitor) -> Column:
    return Column(f"test_{monitor.on_test}_sd", f"SD of {MONITORS[monitor.on_test].title}", "percent")


def all_tables(runs: Sequence[Run], settings: Sequence[Setting]) -> list[Table]:
    """Every results table; one that compares values of an axis is left out where the axis has a single value."""
    tables = [_best_table(settings)] if settings else []
    for axis, name, title in (
        ("template", "template", "Per template"),
        ("batch_size", "batch_size", "Per batch size"),
        ("lora_r", "r", "Per LoRA r"),
    ):
        if (table := _axis_table(settings, axis, name, title)).rows:
            tables.append(table)
    if series := shown_lr_series(settings):
        tables.insert(min(2, len(tables)), _lr_table(series))
    return [*tables, _all_table(runs)]


def _best_table(settings: Sequence[Setting]) -> Table:
    chosen = sorted(best_per(settings, "model"), key=lambda s: -s.rank)
    monitor = settings[0].monitor
    note = (
        f"The setting of each model with the best val {monitor.title}, scored on test; sorted by test "
        f"{MONITORS[monitor.on_test].title}. Where models share settings, only those settings take part, so that each "
        "model has the same number of chances."
    )
    return _table("best", "Best per model", note, ("model",), chosen)


def _axis_table(settings: Sequence[Setting], axis: str, name: str, title: str) -> Table:
    """The best setting for each model and value of ``axis``, the best on val first within each model."""
    rows: list[Setting] = []
    ranked = sorted(settings, key=lambda s: -s.goodness)
    for model in dict.fromkeys(s.axes["model"] for s in ranked):
        own = [s for s in settings if s.axes["model"] == model]
        if len({repr(s.axes[axis]) for s in own}) > 1:
            rows += sorted(best_per(own, axis), key=lambda s: -s.goodness)
    note = (
        f"The setting with the best val {settings[0].monitor.title if settings else ''} for each value, among settings "
        "that were tried with another value too, everything else being equal; scored on test."
    )
    return _table(name, title, note, ("model", axis, "lr"), rows)


def _lr_table(series: Sequence[Sequence[Setting]]) -> Table:
    rows = [setting for one in series for setting in sorted(one, key=lambda s: -float(s.axes["lr"]))]
    note = (
        "Settings that differ only in the learning rate. Of more than eight such series, each model has the one with "
        "most learning rates."
    )
    return _table("lr", "Per learning rate", note, ("model", "template", "batch_size", "lora_r", "lr"), rows)


def _table(name: str, title: str, note: str, shown: tuple[str, ...], settings: Sequence[Setting]) -> Table:
    extras = tuple(dict.fromkeys(key for setting in settings for key in setting.extras))
    monitor = settings[0].monitor if settings else MONITORS["f1"]
    figures = (*_figures(monitor), *_beside(monitor), _sd(monitor), _REPEATED)
    hidden = {"best_epoch", *([f"val_{monitor.name}"] if name == "best" else [])}
    columns = (*_AXES, *figures, *(Column(key, key) for key in extras))
    rows = tuple(setting_row(setting) for setting in settings)
    keys = tuple(column.key for column in figures if column.key not in hidden)
    if settings and not any(setting.has_test for setting in settings):
        note = f"The best settings by val {monitor.title}; the data has no test split."
        keys = tuple(column.key for column in figures if column.key in (f"val_{monitor.name}", "best_epoch"))
    return Table(name, title, note, columns, rows, (*shown, *keys, *extras))


def setting_row(setting: Setting) -> dict[str, Any]:
    """A setting as a row: means over its runs."""
    score = setting.monitor.on_test
    row = {**setting.axes, **setting.extras, f"val_{setting.monitor.name}": setting.val_score}
    row["runs"] = len(setting.runs)
    if setting.has_test:
        row |= {f"test_{name}": setting.test(name) for name in (*METRICS, score)}
        row[f"test_{score}_sd"] = setting.score_sd
    if len(setting.runs) == 1 and setting.runs[0].metrics is not None:
        row["best_epoch"] = setting.runs[0].metrics.best_epoch
    if setting.interval is not None:
        row[f"test_{score}_low"], row[f"test_{score}_high"] = setting.interval
    if setting.has_test and (reference := published(setting)) is not None:
        row["published_test_f1"] = reference["test_f1"]
        row["difference"] = setting.test("f1") - reference["test_f1"]
    return row


def _all_table(runs: Sequence[Run]) -> Table:
    """A row for each run in any state; scores of scored runs only."""
    keys = [key for key in varied_keys(runs) if key not in AXES.values()]
    keys = [key for key in keys if not key.startswith(("model.", "template.")) and key != "lora.enabled"]
    ordered = [key for key in REPLICATES if key in keys] + [key for key in keys if key not in REPLICATES]
    monitor = next((run.monitor for run in runs if run.scored), MONITORS["f1"])
    columns = (
        *_AXES,
        *_figures(monitor),
        *_beside(monitor),
        *(Column(key, key, "number" if key in REPLICATES else "text") for key in ordered),
        Column("state", "State"),
        Column("reason", "Why"),
        Column("run", "Run"),
    )
    rows = [(run, _run_row(run, ordered)) for run in runs]
    rows.sort(key=lambda pair: (*(sort_key(pair[1].get(axis)) for axis in AXES), pair[0].name))
    note = "Every run found, in the order of the published rows. Runs that are not finished are listed, never scored."
    return Table("all", "All runs", note, columns, tuple(row for _, row in rows))


def _run_row(run: Run, keys: Sequence[str]) -> dict[str, Any]:
    state = "collapsed" if run.scored and run.metrics and run.metrics.collapsed else run.state
    reason = run.reason or (_few_steps(run) if state == "collapsed" else "")
    row: dict[str, Any] = {"state": state, "reason": reason or None, "run": run.name}
    row |= {key: as_number(run.config.get(key)) for key in keys}
    if run.config:
        row |= axes_of(run.config)
    if run.scored and run.metrics is not None:
        row_of_run = setting_row(Setting(axes_of(run.config), {}, (), (run,)))
        monitor = run.monitor
        row |= {column.key: row_of_run.get(column.key) for column in (*_figures(monitor), *_beside(monitor))}
    return row


def _few_steps(run: Run) -> str:
    """Whether a collapsed run says something about its configuration."""
    batch_size = run.config.get("data.batch_size")
    if run.record is None or run.metrics is None or not isinstance(batch_size, int) or batch_size < 1:
        return ""
    return too_few_steps(count_steps(run.record.data.n_train, batch_size, run.metrics.epochs_run))
