"""The plots of the report: which settings they show, on which axes."""

from collections.abc import Callable, Sequence

from llm_cls.metrics.selection import MONITORS
from llm_cls.metrics.statistics import Reliability, mean_sd
from llm_cls.reporting.drawing import MARKERS, Axis, Plot, Point, Series, draw
from llm_cls.reporting.formatting import rate, sentence_case
from llm_cls.reporting.names import full_name, name_common, name_setting
from llm_cls.reporting.runs import Run
from llm_cls.reporting.settings import Setting, axes_of, best_per, shown_lr_series, sort_key
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.identity import NEUTRAL
from llm_cls.runs.schema import Epoch

# A setting further below the best one is an arrow on the lower edge: a longer axis would hide the other differences.
_SHOWN_RANGE = 15
# A learning curve starts low, and its rise is of interest.
_SHOWN_CURVE = 30


def by_lr(settings: Sequence[Setting], baseline: float | None, runs: Sequence[Run]) -> Plot | None:
    """The test score over the learning rate, a line for each combination of the other axes; None without such a line.

    Args:
        settings: The scored settings.
        baseline: Test score of the classical baseline, a fraction.
        runs: All runs; those that diverged are crosses.
    """
    series = shown_lr_series(settings)
    if not series:
        return None
    names = _without_lr([one[0] for one in series])
    lines = [
        Series(name_setting(name, names), [_point(s, float(s.axes["lr"])) for s in one])
        for name, one in zip(names, series, strict=True)
    ]
    title = title_of(settings)
    y = _score_axis(lines, f"test {title} (%)", baseline=baseline)
    diverged = [(axes_of(run.config)["lr"], run.name) for run in runs if run.state == "diverged"]
    crosses = [
        Point(float(lr), 0.0, label=f"{name}: diverged", crossed=True) for lr, name in diverged if sort_key(lr)[0] == 0
    ]
    if crosses:
        lines.append(Series("diverged, not scored", crosses, line=False))
    rates = sorted({point.x for line in lines for point in line.points})
    lines += _baseline_series(baseline, y, rates[0], rates[-1])
    margin = (rates[-1] / rates[0]) ** 0.06
    x = Axis("learning rate", rates[0] / margin, rates[-1] * margin, [(r, rate(r)) for r in rates], log=True)
    description = f"Test {title} with 95 % intervals; crosses mark collapsed runs, arrows values below the axis"
    caption = "Crosses are collapsed or diverged runs, arrows on the lower edge settings too far below to show."
    return draw(
        "lr", f"{sentence_case(title)} over learning rate", description, caption + common_note(settings), lines, x, y
    )


def title_of(settings: Sequence[Setting]) -> str:
    """The test score that is shown of ``settings``, as people write it."""
    return MONITORS[settings[0].monitor.on_test].title if settings else ""


def _weighted(settings: Sequence[Setting]) -> str:
    """In what the train loss differs from that of val, where it does."""
    runs = [run for setting in settings for run in setting.runs]
    plain = all(run.config.get(key, value) == value for run in runs for key, value in NEUTRAL.items() if "loss." in key)
    return "" if plain else ", weighted, smoothed or focal as it is minimised; val loss is plain cross-entropy"


def common_note(settings: Sequence[Setting]) -> str:
    """What all lines over the learning rate have in common and other settings do not."""
    series = shown_lr_series(settings)
    common = name_common(_without_lr([s[0] for s in series]), _without_lr(settings)) if series else ""
    return f" All lines: {common}." if common else ""


def by_axis(settings: Sequence[Setting], axis: str, label: str) -> Plot | None:
    """The test score of the best setting for each value of ``axis``, a series for each model; None for one value."""
    values = sorted({s.axes[axis] for s in settings}, key=sort_key)
    ranked = sorted(settings, key=lambda s: -s.goodness)
    series = []
    for model in dict.fromkeys(s.axes["model"] for s in ranked):
        chosen = best_per([s for s in settings if s.axes["model"] == model], axis)
        if len(chosen) > 1:
            chosen.sort(key=lambda s: sort_key(s.axes[axis]))
            points = [_point(s, values.index(s.axes[axis])) for s in chosen]
            series.append(Series(str(model), points, line=axis != "template"))
    if not series:
        return None
    x = _categories(label, ["none" if v is None else str(v) for v in values])
    title, monitor = title_of(settings), settings[0].monitor
    description = f"Test {title} with 95 % intervals of the setting with the best val {monitor.title} for each value"
    caption = f"Best setting for each {label}."
    y = _score_axis(series, f"test {title} (%)")
    return draw(axis, f"{sentence_case(title)} by {label}", description, caption, series[: len(MARKERS)], x, y)


def by_model(settings: Sequence[Setting], baseline: float | None) -> Plot | None:
    """The test score of the best setting of each model; None for a single model."""
    chosen = sorted(best_per(settings, "model"), key=lambda s: -s.rank)
    if len(chosen) < 2:
        return None
    series = [Series(str(s.axes["model"]), [_point(s, i)], line=False) for i, s in enumerate(chosen)]
    title = title_of(settings)
    y = _score_axis(series, f"test {title} (%)", baseline=baseline)
    series += _baseline_series(baseline, y, -0.5, len(chosen) - 0.5)
    x = _categories("models, in the order of the table", [str(i + 1) for i in range(len(chosen))])
    description = f"Test {title} with 95 % intervals of the best setting of each model"
    caption = "Best setting of each model, scored on test."
    return draw("best", f"{sentence_case(title)} by model", description, caption, series, x, y)


def learning_curves(settings: Sequence[Setting]) -> list[Plot]:
    """The val score and both losses by epoch, of the best run of each setting; none for a single epoch."""
    if not settings:
        return []
    monitor = settings[0].monitor
    shown = monitor.on_test
    scores: list[Series] = []
    losses: list[Series] = []
    for i, setting in enumerate(settings[: len(MARKERS)]):
        name = name_setting(setting, settings)
        epochs = RunDirectory(setting.best_run.path).state.history
        marks = len(epochs) <= 15
        scores.append(Series(name, _curve(epochs, lambda epoch: epoch.val.value(shown), 100), marks=marks))
        losses.append(Series(name, _curve(epochs, lambda epoch: epoch.val.loss), marks=marks, style=i))
        losses.append(Series(name, _curve(epochs, lambda epoch: epoch.train_loss), marks=False, dashed=True, style=i))
    last = max((point.x for one in [*scores, *losses] for point in one.points), default=0.0)
    if last < 2:
        return []
    x = Axis("epoch", 1, last, integer=True)
    title = MONITORS[shown].title
    y = _score_axis(scores, f"val {title} (%)", _SHOWN_CURVE)
    description = "Learning curves of the best settings"
    chosen = "this curve" if shown == monitor.name else f"val {monitor.title}"
    caption = f"The best epoch is chosen on {chosen}."
    plots = [draw("curves", f"Val {title} by epoch", description, caption, scores, x, y)]
    if values := [point.y for one in losses for point in one.points]:
        y = Axis("loss", 0, 1.05 * max(values) or 1.0)
        description = "Val loss of the same settings; dashed lines are the train loss"
        caption = f"The same runs in the same colours; dashed: train loss{_weighted(settings)}."
        plots.append(draw("losses", "Loss by epoch", description, caption, losses, x, y, with_legend=False))
    return plots


def reliability_plot(found: Reliability) -> Plot:
    """Accuracy over confidence."""
    points = [
        Point(100 * c, 100 * a, label=f"{n} texts: confidence {100 * c:.1f} %, accuracy {100 * a:.1f} %", note=str(n))
        for c, a, n in zip(found.confidence.tolist(), found.accuracy.tolist(), found.counts.tolist(), strict=True)
    ]
    x, y = Axis("confidence (%)", 0, 100), Axis("accuracy (%)", 0, 108)
    description = "Accuracy in bins of confidence, with the number of texts"
    caption = (
        f"Expected calibration error {100 * found.ece:.2f} points over ten bins; numbers are texts. Points below the "
        "diagonal are overconfident: the predictions are right less often than their probability says."
    )
    return draw("calibration", "Reliability", description, caption, [Series("winner", points)], x, y, diagonal=True)


def cost(settings: Sequence[Setting], field: str, label: str, caption: str) -> Plot | None:
    """The test score of each setting over what a run costs; None where no run recorded it.

    Args:
        settings: The scored settings.
        field: "seconds" (multiplied by the number of devices) or "memory".
        label: Unit of the horizontal axis.
        caption: Text below the plot.
    """
    points: dict[str, list[Point]] = {}
    for setting in settings:
        if known := [spent for run in setting.runs if (spent := _cost_of(run, field))]:
            mean = mean_sd(known)[0]
            point = _point(setting, mean, interval=False, more=f", {mean:,.4g} {label}")
            points.setdefault(str(setting.axes["model"]), []).append(point)
    values = [point.x for one in points.values() for point in one]
    if not values:
        return None
    series = [Series(model, one, line=False) for model, one in points.items()][: len(MARKERS)]
    low, high = min(values), max(values)
    if high > 4 * low:
        margin = (high / low) ** 0.06
        x = Axis(label, low / margin, high * margin, log=True)
    else:
        margin = 0.05 * (high - low) or 0.1 * high
        x = Axis(label, max(0.0, low - margin), high + margin)
    title = title_of(settings)
    y = _score_axis(series, f"test {title} (%)")
    return draw(field, f"{sentence_case(title)} over {label}", f"Test {title} of each setting", caption, series, x, y)


def _cost_of(run: Run, field: str) -> float | None:
    if run.metrics is None or run.record is None:
        return None
    return run.metrics.seconds.total * run.record.world_size if field == "seconds" else run.metrics.peak_memory_gib


def _point(setting: Setting, x: float, interval: bool = True, more: str = "") -> Point:
    """The test score of a setting, in percent."""
    score = 100 * setting.score
    low, high = (100 * bound for bound in setting.interval) if interval and setting.interval else (None, None)
    words = f", 95 % {low:.2f} to {high:.2f}" if low is not None and high is not None else ""
    collapsed = ", collapsed" if setting.collapsed else ""
    label = f"{full_name(setting)}: {title_of([setting])} {score:.2f}{words}{more}{collapsed}"
    return Point(x, score, low, high, label, setting.collapsed)


def _baseline_series(baseline: float | None, y: Axis, first: float, last: float) -> list[Series]:
    """A dashed line across the plot; none where the baseline lies outside of the plot."""
    if baseline is None or not y.low <= 100 * baseline <= y.high:
        return []
    points = [Point(x, 100 * baseline) for x in (first, last)]
    return [Series("TF-IDF baseline", points, marks=False, dashed=True)]


def _score_axis(
    series: Sequence[Series], label: str, shown: float = _SHOWN_RANGE, baseline: float | None = None
) -> Axis:
    """An axis with the best point, what is within ``shown`` points below it, and the baseline unless it is far away."""
    points = [point for one in series for point in one.points]
    best = max((p.y for p in points), default=100.0)
    near = [p for p in points if p.y >= best - shown]
    low = min((p.y if p.low is None else p.low for p in near), default=0.0)
    high = max((p.y if p.high is None else p.high for p in near), default=100.0)
    if baseline is not None and abs(100 * baseline - best) <= shown:
        low, high = min(low, 100 * baseline), max(high, 100 * baseline)
    margin = max(0.2, 0.05 * (high - low))
    return Axis(label, max(0.0, low - margin), min(100.0, high + margin))


def _categories(label: str, names: Sequence[str]) -> Axis:
    """An axis with a place for each name, at 0, 1, 2, ..."""
    return Axis(label, -0.5, len(names) - 0.5, list(enumerate(names)))


def _without_lr(settings: Sequence[Setting]) -> list[Setting]:
    """The settings without their learning rate, for names that leave it out."""
    return [Setting({**s.axes, "lr": None}, s.extras, s.rest("lr"), s.runs) for s in settings]


def _curve(epochs: Sequence[Epoch], value: Callable[[Epoch], float | None], factor: float = 1) -> list[Point]:
    """A point for each epoch that has the value."""
    found = [(epoch.epoch, value(epoch)) for epoch in epochs]
    return [Point(epoch, factor * y, label=f"epoch {epoch}: {y:.4f}") for epoch, y in found if y is not None]
