"""A plot as inline SVG: drawn by matplotlib, coloured by the style sheet of the page."""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from llm_cls.reporting.formatting import printable, rate
from llm_cls.reporting.svg import inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Points of 1/72 inch, which become the units of the SVG: text of 12 units is 10 pixels high on a phone.
WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 42
# Shapes as well as colours distinguish the series. Each marker has a character for the legend.
MARKERS = ("o", "s", "^", "D", "v", "P", "*", "h")
SYMBOLS = "●■▲◆▼✚★⬢"
_SIZES = (8, 7.5, 9, 7.5, 9, 9.5, 13, 9.5)  # so that they look equally large
# Colours of the light theme in style.css. The page replaces each by its CSS variable, so that dark mode applies.
_SERIES = ("#0b62b8", "#c2410c", "#0f7b5f", "#9333a8", "#8a6100", "#be185d", "#3f4a57", "#0e7490")
_INK, _SOFT, _LINE, _PAGE = "#1c2127", "#59636e", "#d5dae0", "#ffffff"
_VARIABLES = {
    **{colour: f"var(--s{i})" for i, colour in enumerate(_SERIES)},
    **{_INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)", _PAGE: "var(--page)"},
}
_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 12, "text.color": _INK, "axes.labelcolor": _SOFT,
    "xtick.labelcolor": _INK, "ytick.labelcolor": _INK, "xtick.color": _SOFT, "axes.edgecolor": _SOFT,
    "grid.color": _LINE, "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "ytick.major.size": 0,
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "axes.facecolor": "none",
    "figure.facecolor": "none", "lines.linewidth": 2, "lines.markersize": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A point: position, interval, tooltip, whether it is drawn as a cross, and a note above it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    crossed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Series:
    """Points that belong together; ``style`` is the index of colour and marker, by default the series' position."""

    name: str
    points: Sequence[Point]
    line: bool = True
    marks: bool = True
    dashed: bool = False
    style: int | None = None


@dataclass(frozen=True)
class Axis:
    """An axis from ``low`` to ``high``; without ``ticks`` matplotlib chooses them."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]] = ()
    log: bool = False
    integer: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawn plot. The legend is HTML, so that long names wrap: colour index, symbol and name of each series."""

    svg: Markup
    legend: tuple[tuple[int, str, str], ...]
    caption: str


def draw(
    anchor: str,
    title: str,
    description: str,
    caption: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    diagonal: bool = False,
    with_legend: bool = True,
) -> Plot:
    """Draws the series; crosses mark collapsed runs, arrows on the lower edge what lies below the y axis.

    Args:
        anchor: Start of all ids in the SVG, unique on the page.
        title: Name of the plot for a screen reader.
        description: What the plot shows, for a screen reader.
        caption: Text below the plot.
        series: Eight styles are distinct; further series repeat them.
        x: Horizontal axis.
        y: Vertical axis.
        diagonal: Whether the line of equal values is drawn.
        with_legend: Whether several series are named below the plot.
    """
    import matplotlib.style  # takes 0.4 s, which --help should not
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    # "default" makes the plot independent of a matplotlibrc of the user.
    with matplotlib.style.context(["default", {**_STYLE, "svg.hashsalt": anchor}]), warnings.catch_warnings():
        # Japanese text is measured, with a font that lacks it, but drawn by the browser.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        FigureCanvasSVG(figure)
        axes = figure.add_axes(
            (LEFT / WIDTH, BOTTOM / HEIGHT, (WIDTH - LEFT - RIGHT) / WIDTH, (HEIGHT - TOP - BOTTOM) / HEIGHT)
        )
        _set_axes(axes, x, y)
        if diagonal:
            low, high = max(x.low, y.low), min(x.high, y.high)
            axes.plot([low, high], [low, high], color=_SOFT, linewidth=1, linestyle=(0, (5, 4)))
        tooltips = _draw_series(axes, anchor, series, x, y.low)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = inline(buffer.getvalue(), title, description, tooltips, _VARIABLES)
    legend = tuple(_legend_entry(i, one) for i, one in enumerate(series)) if with_legend and len(series) > 1 else ()
    return Plot(svg, legend, caption)


def standalone(plot: Plot) -> str:
    """The plot as an SVG file, in the colours of the light theme."""
    svg = str(plot.svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(variable, colour)
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _set_axes(axes: "Axes", x: Axis, y: Axis) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set(xlim=(x.low, x.high), ylim=(y.low, y.high), xscale="log" if x.log else "linear")
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    if x.ticks:
        end, names = -1.0, []
        for value, text in x.ticks:  # a label that would overlap the one before is left out
            centre, half = float(axes.transData.transform((value, y.low))[0]), 3.6 * len(text)
            names.append(printable(text) if centre - half > end else "")
            end = centre + half + 2 if names[-1] else end
        axes.set_xticks([value for value, _ in x.ticks], names)
    elif x.log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if x.high / x.low < 300 else (1,)))
        axes.xaxis.set_major_formatter(lambda value, _: rate(value))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10], integer=x.integer))


def _draw_series(axes: "Axes", anchor: str, series: Sequence[Series], x: Axis, floor: float) -> dict[str, list[str]]:
    """Draws the series and returns the tooltips of each group of markers, by the id of the group."""
    from matplotlib.path import Path
    from matplotlib.transforms import ScaledTranslation

    move, line = Path.MOVETO, Path.LINETO
    arrow = Path([(0, 2), (0, 0), (-0.7, 0.7), (0, 0), (0.7, 0.7)], [move, line, line, move, line])
    step = _dodge(series, x)
    tooltips: dict[str, list[str]] = {}
    for i, one in enumerate(series):
        style = (i if one.style is None else one.style) % len(MARKERS)
        shift = ScaledTranslation((i - (len(series) - 1) / 2) * step / 72, 0, axes.figure.dpi_scale_trans)
        shared: dict[str, Any] = {"color": _SERIES[style], "transform": axes.transData + shift}
        if one.line and len(one.points) > 1:
            dashes = (0, (3, 2)) if one.dashed else "-"
            axes.plot([p.x for p in one.points], [p.y for p in one.points], linestyle=dashes, **shared)
        above = [p for p in one.points if p.y >= floor]
        bounds = [(p.x, max(p.low, floor), p.high) for p in above if p.low is not None and p.high is not None]
        if bounds:
            axes.vlines(*zip(*bounds, strict=True), alpha=0.65, linewidth=1.5, **shared)
        filled: dict[str, Any] = {"marker": MARKERS[style], "ms": _SIZES[style], "markeredgewidth": 0.8}
        hidden = [p for p in one.points if p.y < floor and not p.crossed]
        for look, points in (
            (filled | {"markeredgecolor": _PAGE}, [p for p in above if one.marks and not p.crossed]),
            ({"marker": "x", "markeredgewidth": 2}, [p for p in one.points if p.crossed]),
            # On a curve the line itself shows where it leaves the plot.
            (
                {"marker": arrow, "ms": 22, "markeredgewidth": 1.8, "fillstyle": "none"},
                hidden if x.ticks or not one.line else [],
            ),
        ):
            if points:
                group = f"{anchor}-points-{len(tooltips)}"
                tooltips[group] = [p.label for p in points]
                heights = [max(p.y, floor) for p in points]
                axes.plot([p.x for p in points], heights, linestyle="", gid=group, clip_on=False, **shared, **look)
        for point in above:
            if point.note:
                axes.annotate(point.note, (point.x, point.y), (0, 8), textcoords="offset points", ha="center")
    return tooltips


def _dodge(series: Sequence[Series], x: Axis) -> float:
    """Distance between intervals of neighbouring series at one value, so that they do not cover each other."""
    points = [p for one in series if one.marks for p in one.points]
    if not x.ticks or len({p.x for p in points}) == len(points) or all(p.low is None for p in points):
        return 0.0
    room = 24.0 if x.log else 0.7 * (WIDTH - LEFT - RIGHT) / len(x.ticks)
    return min(14.0, room / len(series))


def _legend_entry(position: int, one: Series) -> tuple[int, str, str]:
    style = (position if one.style is None else one.style) % len(MARKERS)
    crossed = one.points and all(point.crossed for point in one.points)
    return style, "✕" if crossed else SYMBOLS[style] if one.marks else "╌╌", one.name
