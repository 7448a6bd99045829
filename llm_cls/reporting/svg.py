"""Plots as inline SVG: axes, lines, points with intervals. Colours are classes, so that dark mode and print apply."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llm_cls.reporting.export import rate
from llm_cls.reporting.markup import Safe, japanese, join, tag

# Sized so that the text is still readable when a phone scales the plot to 350 pixels.
WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 46
N_STYLES = 8

# Shapes besides colours tell series apart in print and for colour-blind readers; centred on 0, 4 pixels wide.
_SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8L4.6 3.4H-4.6z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.8L-4.6-3.4H4.6z",
    "M-1.6-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
    "M-5-2.2h10v4.4h-10z",
    "M-2.2-5h4.4v10h-4.4z",
)
_CROSS = "M-4.5-4.5L4.5 4.5M-4.5 4.5L4.5-4.5"
_ARROW = "M0-11V-1M-4-5L0-1L4-5"


@dataclass(frozen=True)
class Point:
    """A point: position, interval, the text shown when it is pointed at, a note above it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    crossed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Series:
    """Points that belong together; ``style`` is that of the series' place unless it is given."""

    name: str
    points: Sequence[Point]
    line: bool = True
    marks: bool = True
    dashed: bool = False
    style: int | None = None


@dataclass(frozen=True)
class Axis:
    """An axis; on a "category" axis positions are 0, 1, 2, ..."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    kind: Literal["linear", "log", "category"] = "linear"

    def place(self, value: float) -> float:
        """Position between 0 and 1."""
        if self.kind == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(label: str, low: float, high: float, unit: float = 1) -> Axis:
    """An axis with four to nine round ticks; ``unit`` multiplies what the ticks say."""
    if not high > low:
        low, high = low - 0.05 / unit, high + 0.05 / unit
    span = (high - low) * unit
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 9)
    first, last = math.ceil(low * unit / step - 1e-9), math.floor(high * unit / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [(i * step / unit, f"{i * step:.{digits}f}") for i in range(first, last + 1)]
    return Axis(label, low, high, ticks)


def log_axis(label: str, values: Sequence[float], own_ticks: bool = False) -> Axis:
    """A logarithmic axis over positive values, with ticks at 1, 2, 5 x 10^n or at the values themselves."""
    low, high = min(values), max(values)
    margin = (high / low) ** 0.06 if high > low else 1.5
    low, high = low / margin, high * margin
    if own_ticks:
        marks = sorted(set(values))
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if high / low < 300 else (1,)
        marks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
    return Axis(label, low, high, [(v, rate(v)) for v in marks], "log")


def category_axis(label: str, names: Sequence[str]) -> Axis:
    """An axis with a place for each name."""
    return Axis(label, -0.5, len(names) - 0.5, list(enumerate(names)), "category")


def plot(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    title: str,
    description: str,
    diagonal: bool = False,
    with_legend: bool = True,
) -> Safe:
    """A plot of the series with a legend; crosses mark what collapsed, arrows what lies below the y axis.

    Args:
        series: What to draw; those after the eighth repeat the styles.
        x: Horizontal axis.
        y: Vertical axis.
        title: For people who don't see the plot.
        description: What the plot says, for them.
        diagonal: Whether the line of equal values is drawn.
        with_legend: Whether the names of several series are listed.
    """
    parts = [_axes(x, y)]
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(tag("path", d=_path([(_x(x, low), _y(y, low)), (_x(x, high), _y(y, high))]), class_="reference"))
    dodge = _dodge(series, x)
    for i, one in enumerate(series):
        style = i if one.style is None else one.style
        parts.append(_series(one, x, y, style % N_STYLES, (i - (len(series) - 1) / 2) * dodge))
    drawing = tag(
        "svg", tag("title", title), tag("desc", description), *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}. {description}",
    )  # fmt: skip
    return join([drawing, legend(series) if with_legend and len(series) > 1 else None])


def _dodge(series: Sequence[Series], x: Axis) -> float:
    """Pixels between the intervals of neighbouring series at one place, so that they don't cover one another."""
    several = len({p.x for s in series for p in s.points}) < sum(len(s.points) for s in series if s.marks)
    if not several or x.kind == "linear" or all(p.low is None for s in series for p in s.points):
        return 0.0
    room = 0.7 * (WIDTH - LEFT - RIGHT) / len(x.ticks) if x.kind == "category" else 24.0
    return min(14.0, room / len(series))


def legend(series: Sequence[Series]) -> Safe:
    """The names of the series beside their marks, as a list that wraps."""
    items = []
    for i, one in enumerate(series):
        shape = tag("path", d=_SHAPES[i % N_STYLES], class_="mark") if one.marks else None
        if all(point.crossed for point in one.points):
            shape = tag("path", d=_CROSS, class_="cross")
        swatch = tag(
            "svg", tag("path", d="M-10 0H10", class_="line"), shape, viewBox="-11 -7 22 14", aria_hidden="true"
        )
        items.append(
            tag(
                "li", swatch, japanese(one.name), class_=f"s{i % N_STYLES} dashed" if one.dashed else f"s{i % N_STYLES}"
            )
        )
    return tag("ul", *items, class_="legend")


def _series(one: Series, x: Axis, y: Axis, style: int, shift: float) -> Safe:
    parts = []
    if one.line and len(one.points) > 1:
        line = tag("path", d=_path([(_x(x, p.x) + shift, _y(y, p.y)) for p in one.points]), class_="line")
        box = LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        view = " ".join(map(str, box))  # an inner drawing cuts off what leaves it
        parts.append(tag("svg", line, x=box[0], y=box[1], width=box[2], height=box[3], viewBox=view))
    for point in one.points:
        across, up = _x(x, point.x) + shift, _y(y, max(point.y, y.low))
        drawn: list[Safe] = []
        below = point.y < y.low
        if not below and point.low is not None and point.high is not None:
            ends = _y(y, max(point.low, y.low)), _y(y, min(point.high, y.high))
            drawn.append(tag("path", d=f"M{across:.1f} {ends[0]:.1f}V{ends[1]:.1f}", class_="interval"))
        if below and not point.crossed:
            if x.kind != "linear":  # on a curve the line says enough
                drawn.append(tag("path", d=_ARROW, class_="arrow", transform=f"translate({across:.1f} {up:.1f})"))
        elif point.crossed:
            drawn.append(tag("path", d=_CROSS, class_="cross", transform=f"translate({across:.1f} {up:.1f})"))
        elif one.marks:
            drawn.append(tag("path", d=_SHAPES[style], class_="mark", transform=f"translate({across:.1f} {up:.1f})"))
        if point.note:
            drawn.append(tag("text", point.note, x=across, y=up - 8, class_="middle name"))
        if drawn:
            parts.append(tag("g", tag("title", point.label) if point.label else None, *drawn))
    return tag("g", *parts, class_=f"s{style} dashed" if one.dashed else f"s{style}")


def _axes(x: Axis, y: Axis) -> Safe:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value, text in y.ticks:
        up = _y(y, value)
        parts.append(tag("path", d=f"M{LEFT} {up:.1f}H{right}", class_="grid"))
        parts.append(tag("text", text, x=LEFT - 6, y=up + 4, class_="end"))
    last_end = -math.inf
    for value, text in x.ticks:
        across, half = _x(x, value), 3.6 * len(text)
        parts.append(tag("path", d=f"M{across:.1f} {bottom}v4", class_="axis"))
        if across - half > last_end:  # a label that would run into the one before is left out
            parts.append(tag("text", text, x=across, y=bottom + 17, class_="middle"))
            last_end = across + half + 2
    parts.append(tag("path", d=f"M{LEFT} {bottom}H{right}", class_="axis"))
    parts.append(tag("text", x.label, x=(LEFT + right) / 2, y=HEIGHT - 8, class_="middle name"))
    middle = (TOP + bottom) / 2
    parts.append(tag("text", y.label, class_="middle name", transform=f"translate(13 {middle:.0f}) rotate(-90)"))
    return join(parts)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
