"""The plots of the report: which settings they show, on which axes."""

from collections.abc import Sequence
from typing import Any

from llm_cls.files import read_jsonl
from llm_cls.metrics.statistics import Reliability, mean_sd
from llm_cls.reporting.markup import Safe, tag
from llm_cls.reporting.names import full_name, name_common, name_setting
from llm_cls.reporting.runs import Run
from llm_cls.reporting.settings import Setting, axes_of, best_per, shown_lr_series, sort_key
from llm_cls.reporting.svg import (
    N_STYLES,
    Axis,
    Point,
    Series,
    category_axis,
    linear_axis,
    log_axis,
    plot,
)

# Below the best by more than this, a setting is an arrow on the lower edge: the others would look all alike.
_SHOWN_RANGE = 0.15
# Curves start low, and how they rise is what they show.
_SHOWN_CURVE = 0.3
_PERCENT = 100


def by_lr(settings: Sequence[Setting], baseline: float | None, runs: Sequence[Run]) -> Safe | None:
    """Test F1 over the learning rate, a line for each setting of the rest; of each model only one where many."""
    series = shown_lr_series(settings)
    if not series:
        return None
    names = _without_lr([s[0] for s in series])
    lines = [
        Series(name_setting(name, names), [_point(one, float(one.axes["lr"])) for one in s])
        for name, s in zip(names, series, strict=True)
    ]
    rates = [p.x for line in lines for p in line.points]
    gone = [run for run in runs if run.state == "diverged"]
    lost = [(axes_of(run.config)["lr"], run.name) for run in gone]
    crosses = [
        Point(float(lr), 0.0, label=f"{name}: diverged", crossed=True) for lr, name in lost if sort_key(lr)[0] == 0
    ]
    if crosses:
        lines.append(Series("diverged, not scored", crosses, line=False))
        rates += [p.x for p in crosses]
    y = _f1_axis(lines, baseline=baseline)
    lines += _baseline_series(baseline, y, min(rates), max(rates))
    x = log_axis("learning rate", rates, own_ticks=True)
    description = "Test F1 with 95 % intervals; crosses mark collapsed runs, arrows what lies below the axis"
    return plot(lines, x, y, "F1 over learning rate", description)


def lr_note(settings: Sequence[Setting]) -> str:
    """What all lines over the learning rate have in common where other settings have something else."""
    series = shown_lr_series(settings)
    common = name_common(_without_lr([s[0] for s in series]), _without_lr(settings)) if series else ""
    return f" All lines: {common}." if common else ""


def by_axis(settings: Sequence[Setting], axis: str, label: str) -> Safe | None:
    """Test F1 of the best setting for each value of an axis, a series for each model."""
    values = sorted({s.axes[axis] for s in settings}, key=sort_key)
    if len(values) < 2:
        return None
    ranked = sorted(settings, key=lambda s: -s.val_f1)
    series = []
    for model in dict.fromkeys(s.axes["model"] for s in ranked):
        chosen = best_per([s for s in settings if s.axes["model"] == model], axis)
        if len(chosen) > 1:
            chosen.sort(key=lambda s: sort_key(s.axes[axis]))
            numeric = axis != "template"
            points = [_point(s, values.index(s.axes[axis])) for s in chosen]
            series.append(Series(str(model), points, line=numeric))
    if not series:
        return None
    x = category_axis(label, ["none" if v is None else str(v) for v in values])
    return plot(series[:N_STYLES], x, _f1_axis(series), f"F1 by {label}",
                "Test F1 with 95 % intervals of the setting with the best val F1 for each value")  # fmt: skip


def by_model(settings: Sequence[Setting], baseline: float | None) -> Safe | None:
    """Test F1 of the best setting of each model."""
    chosen = sorted(best_per(settings, "model"), key=lambda s: -s.test("f1"))
    if len(chosen) < 2:
        return None
    series = [Series(str(s.axes["model"]), [_point(s, i)], line=False) for i, s in enumerate(chosen)]
    names = [str(i + 1) for i in range(len(chosen))]
    y = _f1_axis(series, baseline=baseline)
    series += _baseline_series(baseline, y, -0.5, len(chosen) - 0.5)
    x = category_axis("models, in the order of the table", names)
    return plot(series, x, y, "F1 by model", "Test F1 with 95 % intervals of the best setting of each model")


def learning_curves(settings: Sequence[Setting]) -> list[Safe]:
    """Val F1 and both losses by epoch, of the best run of each setting."""
    f1, losses = [], []
    for i, setting in enumerate(settings[:N_STYLES]):
        name = name_setting(setting, settings)
        rows = _history(setting.best_run)
        f1.append(Series(name, _curve(rows, "val", "f1"), marks=len(rows) <= 15))
        losses.append(Series(name, _curve(rows, "val", "loss"), marks=len(rows) <= 15, style=i))
        losses.append(Series(name, _curve(rows, None, "train_loss"), marks=False, dashed=True, style=i))
    last = max((p.x for s in [*f1, *losses] for p in s.points), default=0.0)
    if last < 2:
        return []
    epochs = linear_axis("epoch", 1, last)
    epochs = Axis(epochs.label, epochs.low, epochs.high, [(v, f"{v:.0f}") for v, _ in epochs.ticks if v == int(v)])
    y = _f1_axis(f1, "val F1 (%)", _SHOWN_CURVE)
    plots = [plot(f1, epochs, y, "Val F1 by epoch", "Learning curves of the best settings")]
    values = [p.y for s in losses for p in s.points]
    if values:
        y = linear_axis("loss", 0, max(values) * 1.05)
        title, description = "Loss by epoch", "Val loss of the same settings; dashed lines are the train loss"
        plots.append(plot(losses, epochs, y, title, description, with_legend=False))
    return plots


def reliability_plot(found: Reliability) -> Safe:
    """Accuracy over confidence."""
    points = [
        Point(float(c), float(a), label=f"{n} texts: confidence {100 * c:.1f} %, accuracy {100 * a:.1f} %", note=str(n))
        for c, a, n in zip(found.confidence, found.accuracy, found.counts, strict=True)
    ]
    x, y = linear_axis("confidence (%)", 0, 1, _PERCENT), linear_axis("accuracy (%)", 0, 1.08, _PERCENT)
    error = f"expected calibration error {100 * found.ece:.2f} points"
    description = f"Accuracy in bins of confidence, with the number of texts; {error}"
    return plot([Series("winner", points)], x, y, "Reliability", description, diagonal=True)


def cost(settings: Sequence[Setting], field: str, label: str) -> Safe | None:
    """Test F1 against what a run costs; ``field`` is "seconds" (times devices) or "memory"."""
    series, models = [], dict.fromkeys(s.axes["model"] for s in settings)
    for model in models:
        points = []
        for setting in settings:
            known = [spent for run in setting.runs if (spent := cost_of(run, field))]
            if setting.axes["model"] == model and known:
                spent = mean_sd(known)[0]
                points.append(_point(setting, spent, interval=False, more=f", {spent:,.4g} {label}"))
        if points:
            series.append(Series(str(model), points, line=False))
    values = [p.x for s in series for p in s.points]
    if not values:
        return None
    x = log_axis(label, values) if max(values) > 4 * min(values) else linear_axis(label, *_widened(values))
    return plot(series[:N_STYLES], x, _f1_axis(series), f"F1 against {label}", "Test F1 of each setting")


def cost_of(run: Run, field: str) -> float | None:
    """Seconds times devices, or memory, of a run."""
    if run.metrics is None or run.record is None:
        return None
    return run.metrics.seconds.total * run.record.world_size if field == "seconds" else run.metrics.peak_memory_gib


def figure(drawing: Safe | None, caption: str) -> Safe | None:
    """A plot with its caption."""
    return None if drawing is None else tag("figure", drawing, tag("figcaption", caption))


def _point(setting: Setting, x: float, interval: bool = True, more: str = "") -> Point:
    f1 = setting.test("f1")
    low, high = setting.interval if interval and setting.interval else (None, None)
    words = f", 95 % {100 * low:.2f} to {100 * high:.2f}" if low is not None and high is not None else ""
    label = f"{full_name(setting)}: F1 {100 * f1:.2f}{words}{more}"
    return Point(x, f1, low, high, label + (", collapsed" if setting.collapsed else ""), setting.collapsed)


def _baseline_series(baseline: float | None, y: Axis, first: float, last: float) -> list[Series]:
    """A dashed line across the plot; none where the baseline lies outside of it."""
    if baseline is None or not y.low <= baseline <= y.high:
        return []
    return [Series("TF-IDF baseline", [Point(first, baseline), Point(last, baseline)], marks=False, dashed=True)]


def _f1_axis(
    series: Sequence[Series],
    label: str = "test F1 (%)",
    shown_range: float = _SHOWN_RANGE,
    baseline: float | None = None,
) -> Axis:
    """An axis that shows the best and what is within the range below, and the baseline unless it is far above."""
    points = [p for s in series for p in s.points]
    best = max((p.y for p in points), default=1.0)
    shown = [p for p in points if p.y >= best - shown_range]
    low = min((p.y if p.low is None else p.low for p in shown), default=0.0)
    high = max((p.y if p.high is None else p.high for p in shown), default=1.0)
    if baseline is not None and abs(baseline - best) <= shown_range:
        low, high = min(low, baseline), max(high, baseline)
    margin = max(0.002, 0.05 * (high - low))
    return linear_axis(label, max(0.0, low - margin), min(1.0, high + margin), _PERCENT)


def _widened(values: Sequence[float]) -> tuple[float, float]:
    margin = 0.05 * (max(values) - min(values)) or 0.1 * max(values)
    return max(0.0, min(values) - margin), max(values) + margin


def _without_lr(settings: Sequence[Setting]) -> list[Setting]:
    """The same settings, equal where they differ in the learning rate alone: for their names."""
    return [Setting({**s.axes, "lr": None}, s.extras, s.rest("lr"), s.runs) for s in settings]


def _history(run: Run) -> list[dict[str, Any]]:
    try:
        return [row for row in read_jsonl(run.path / "history.jsonl") if isinstance(row, dict)]
    except (OSError, ValueError):
        return []


def _curve(rows: Sequence[dict[str, Any]], part: str | None, name: str) -> list[Point]:
    points = []
    for row in rows:
        epoch, values = row.get("epoch"), row if part is None else row.get(part)
        y = values.get(name) if isinstance(values, dict) else None
        if isinstance(epoch, int) and isinstance(y, int | float):
            points.append(Point(epoch, float(y), label=f"epoch {epoch}: {y:.4f}"))
    return points
