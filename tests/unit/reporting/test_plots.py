"""The points, colours and texts of the plots."""

import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llm_cls.reporting.drawing import Axis, Plot, Point, Series, draw
from llm_cls.reporting.plots import by_axis, by_lr, by_model, common_note, cost, learning_curves
from llm_cls.reporting.runs import read_runs
from llm_cls.reporting.settings import group
from tests.unit.reporting.run_directories import make_run

PERCENT = Axis("y", 80, 100)


def texts(plot: Plot) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(plot.svg).iter("text")]


def tooltips(plot: Plot) -> list[str]:
    return [use.findtext("title") or "" for use in ElementTree.fromstring(plot.svg).iter("use") if len(use)]


def names(plot: Plot | None) -> list[str]:
    assert plot is not None
    return [name for _, _, name in plot.legend]


def test_each_marker_has_the_tooltip_of_its_point() -> None:
    points = [Point(1, 20, label="below"), Point(2, 90, label="shown"), Point(3, 0, crossed=True, label="collapsed")]
    plot = draw("a", "t", "d", "", [Series("s", points)], Axis("x", 0, 4, [(i, str(i)) for i in range(4)]), PERCENT)
    heights = {
        use.findtext("title"): float(use.get("y", "nan"))
        for use in ElementTree.fromstring(plot.svg).iter("use") if len(use)
    }  # fmt: skip
    assert heights.keys() == {"below", "shown", "collapsed"}
    assert heights["below"] == heights["collapsed"] > heights["shown"]


def test_labels_that_would_overlap_are_left_out() -> None:
    ticks = [(float(i), f"name {i}") for i in range(40)]
    shown = [
        text for text in texts(draw("a", "t", "d", "", [], Axis("x", -0.5, 39.5, ticks), PERCENT)) if "name" in text
    ]
    assert shown[0] == "name 0" and 5 <= len(shown) <= 15


def test_learning_rates_are_written_as_typed(tmp_path: Path) -> None:
    for lr in (1e-5, 3e-4, 1e-2):
        make_run(tmp_path / str(lr), lr=lr)
    plot = by_lr(group(read_runs(tmp_path)), None, [])
    assert plot is not None and {"1e-5", "3e-4", "1e-2", "learning rate"} <= set(texts(plot))


@pytest.mark.parametrize("text", ["日本語の題", "$\\frac{$ 100 $", "<script>&\"'", "\x00\x1b\u202e\ud800", "#0b62b8"])
def test_any_text_is_drawn_literally_and_without_warnings(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        series = [Series(text, [Point(0, 90, label=text)])]
        plot = draw("a", text, text, text, series, Axis("x", -1, 1, [(0, text)]), PERCENT)
    if text.isprintable():
        assert text in texts(plot) and tooltips(plot) == [text]
    else:
        assert "\N{REPLACEMENT CHARACTER}" in tooltips(plot)[0]


def test_a_user_matplotlibrc_has_no_effect() -> None:
    import matplotlib

    arguments = ("a", "t", "d", "", [Series("s", [Point(0, 90), Point(1, 95)])], Axis("x", 0, 1), PERCENT)
    expected = draw(*arguments)
    with matplotlib.rc_context({"svg.fonttype": "path", "font.size": 30, "axes.facecolor": "red"}):
        assert draw(*arguments) == expected


def test_curves_show_both_losses_of_a_run_in_one_colour(tmp_path: Path) -> None:
    for i in range(2):
        make_run(tmp_path / str(i), lr=(i + 1) * 1e-4)
    f1, losses = learning_curves(group(read_runs(tmp_path)))
    assert names(f1) == ["lr 1e-4", "lr 2e-4"] and names(losses) == []
    lines = [path for path in ElementTree.fromstring(losses.svg).iter("path") if path.get("stroke-width") == "2"]
    for colour in ("var(--s0)", "var(--s1)"):
        dashed = [line.get("stroke-dasharray") is not None for line in lines if line.get("stroke") == colour]
        assert sorted(dashed) == [False, True]


@pytest.mark.parametrize(("field", "label", "mean"), [("seconds", "GPU-seconds", "2,000"), ("memory", "GiB", "38")])
def test_costs_are_means_over_the_runs(tmp_path: Path, field: str, label: str, mean: str) -> None:
    for seed, seconds in ((1, 1000.0), (2, 3000.0)):
        make_run(tmp_path / str(seed), seed=seed, seconds=seconds)
    plot = cost(group(read_runs(tmp_path)), field, label, "")
    assert plot is not None and [text.rpartition(", ")[0] for text in tooltips(plot)] != []
    assert tooltips(plot)[0].endswith(f", {mean} {label}")


def test_costs_of_settings_far_below_the_best_are_shown_too(tmp_path: Path) -> None:
    for lr, quality in ((1e-4, 0.95), (3e-4, 0.6), (5e-4, 0.1)):
        make_run(tmp_path / str(lr), lr=lr, quality=quality)
    plot = cost(group(read_runs(tmp_path)), "seconds", "GPU-seconds", "")
    assert plot is not None and len(tooltips(plot)) == 3


@pytest.mark.parametrize(("baseline", "shown"), [(0.97, True), (0.80, True), (0.20, False), (None, False)])
def test_a_baseline_is_shown_unless_it_is_far_away(tmp_path: Path, baseline: float | None, shown: bool) -> None:
    for lr, quality in ((1e-4, 0.93), (3e-4, 0.85)):
        make_run(tmp_path / str(lr), lr=lr, quality=quality)
        make_run(tmp_path / f"m-{lr}", lr=lr, quality=quality - 0.01, model="m")
    settings = group(read_runs(tmp_path))
    for plot in (by_lr(settings, baseline, []), by_model(settings, baseline)):
        assert ("TF-IDF baseline" in names(plot)) == shown


def test_a_baseline_far_above_hides_no_settings(tmp_path: Path) -> None:
    for lr, quality in ((1e-4, 0.45), (3e-4, 0.40)):
        make_run(tmp_path / str(lr), lr=lr, quality=quality)
    settings = group(read_runs(tmp_path))
    assert by_lr(settings, 0.957, []) == by_lr(settings, None, [])


def test_an_axis_with_a_single_value_has_no_plot(tmp_path: Path) -> None:
    make_run(tmp_path / "a", template=0, model="m")
    make_run(tmp_path / "b", template=1, model="n")  # no model has two templates
    settings = group(read_runs(tmp_path))
    assert by_axis(settings, "template", "template") is by_axis(settings, "lora_r", "LoRA r") is None
    assert by_lr(settings, None, []) is None


def test_what_all_lines_over_the_learning_rate_share_is_in_the_caption(tmp_path: Path) -> None:
    for model in ("a", "b", "c", "d", "e"):
        for template in (1, 2):
            for lr in (1e-4, 3e-4):
                val_f1 = 0.9 if template == 2 else 0.8
                make_run(tmp_path / f"{model}-{template}-{lr}", model=model, template=template, lr=lr, val_f1=val_f1)
    settings = group(read_runs(tmp_path))
    assert common_note(settings) == " All lines: template 2." and common_note(settings[:2]) == common_note([]) == ""
    plot = by_lr(settings, None, [])
    assert plot is not None and plot.caption.endswith(" All lines: template 2.")
