"""The page: one file, everything escaped, nothing to run or load."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llm_cls.reporting.analysis import analyse
from llm_cls.reporting.charts import by_lr, by_model, lr_note
from llm_cls.reporting.markup import Safe, join, tag
from llm_cls.reporting.page import render
from llm_cls.reporting.runs import read_runs
from llm_cls.reporting.settings import group
from llm_cls.reporting.svg import Axis, Point, Series, linear_axis, log_axis, plot
from tests.unit.reporting.run_directories import make_published, make_run, replace_json

HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><svg onload=alert(1)>", "'; DROP TABLE--",
    "</script><iframe src=javascript:alert(1)>", "&lt;b&gt; &amp;", "\u202egnp.exe", "\x00\x1b[31m", "<!--", "]]>",
    "日本語の題", "javascript:alert(1)",
)  # fmt: skip


class _Elements(HTMLParser):
    """Counts elements and collects attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _page(directory: Path, name: str = "sweep") -> str:
    return render(analyse(directory, None, with_baseline=False), name, "2026-01-31 12:00 UTC")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("harmless")
    titles = tuple(f"題{i}" for i in range(len(HOSTILE)))
    make_run(directory / "a", quality=0.7, titles=titles, lr=1e-4)
    make_run(directory / "b", quality=0.6, titles=titles, lr=3e-4)
    return _page(directory)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("hostile")
    make_run(directory / "a", quality=0.7, titles=HOSTILE, lr=1e-4)
    make_run(directory / "b", quality=0.6, titles=HOSTILE, lr=3e-4)
    return _page(directory)


def test_hostile_titles_add_no_element_and_no_attribute(harmless: str, hostile: str) -> None:
    good, bad = _Elements(harmless), _Elements(hostile)
    assert good.tags == bad.tags and bad.open == []
    assert {name for name, _ in good.attributes} == {name for name, _ in bad.attributes}
    assert "<script>alert(1)</script>" in bad.text and "日本語の題" in bad.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", hostile)


def test_hostile_names_of_models_labels_and_folders_add_no_element(tmp_path: Path) -> None:
    labels = tuple(f"{i}<b>{text}" for i, text in enumerate(HOSTILE[:4]))
    for i, lr in enumerate((1e-4, 3e-4)):
        make_run(tmp_path / f"<u>{i}", quality=0.7, labels=labels, lr=lr, model="<i>m</i>")
    page = _Elements(_page(tmp_path, "<s>sweep"))
    assert not {"b", "u", "i", "s", "img", "iframe"} & page.tags.keys() and page.tags["script"] == 1


def test_the_policy_allows_the_one_style_and_script_and_nothing_else(hostile: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', hostile)
    assert policy is not None
    found = policy[1].replace("&#x27;", "'")
    assert found.startswith("default-src 'none'") and "unsafe" not in found and "http" not in found
    for name in ("style", "script"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", hostile, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in found
    names = {name for name, _ in _Elements(hostile).attributes}
    assert not {n for n in names if n.startswith("on")} and not names & {"style", "src", "srcset"}


def test_links_lead_to_articles_sections_and_the_source_alone(hostile: str) -> None:
    links = [value or "" for name, value in _Elements(hostile).attributes if name == "href"]
    outside = [link for link in links if not link.startswith("#")]
    allowed = r"https://news\.livedoor\.com/article/detail/[0-9]+/|https://github\.com/hppRC/llm-lora-classification"
    assert outside and all(re.fullmatch(allowed, link) for link in outside)
    anchors = {value for name, value in _Elements(hostile).attributes if name == "id"}
    assert all(link[1:] in anchors for link in links if link.startswith("#"))


def test_other_corpora_have_no_article_links(tmp_path: Path) -> None:
    make_run(tmp_path / "a", quality=0.7, data="sample")
    assert "news.livedoor.com" not in _page(tmp_path)


def test_ids_are_unique_and_plots_are_described(tmp_path: Path) -> None:
    make_published(tmp_path, n_test=90)
    page = _Elements(_page(tmp_path))
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and {"best", "template", "lr", "batch_size", "r", "curves", "cost"} <= set(ids)
    assert page.tags["title"] > 100 and page.tags["desc"] >= 8
    assert "Tsukagoshi" in page.text


def test_a_tree_without_a_finished_run_still_gives_a_page(tmp_path: Path) -> None:
    make_run(tmp_path / "a", status="pruned")
    page = _Elements(_page(tmp_path))
    assert "No run is finished" in page.text and page.open == []


def test_one_run_gives_a_page(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    assert "The only setting." in _page(tmp_path)


def test_tag_escapes_all_but_markup() -> None:
    assert tag("p", "<b>", tag("i", 1), class_='"x"', data_v=0.5, hidden=True, title=None) == (
        '<p class="&quot;x&quot;" data-v="0.5" hidden="">&lt;b&gt;<i>1</i></p>'
    )
    assert join(["&", Safe("&amp;"), None]) == "&amp;&amp;"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.9, 0.9), (93.1, 97.8), (0, 1e6), (-3, 2), (0.97, 0.9701)])
def test_linear_axes_have_a_few_round_ticks_inside(low: float, high: float) -> None:
    axis = linear_axis("x", low, high, 100)
    values = [value for value, _ in axis.ticks]
    assert 2 <= len(values) <= 11 and values == sorted(values)
    assert all(axis.low - 1e-9 <= value <= axis.high + 1e-9 for value in values)
    assert all(float(text) == pytest.approx(100 * value, abs=1e-6) for value, text in axis.ticks)


def test_log_axes_place_equal_ratios_at_equal_distances() -> None:
    axis = log_axis("lr", [1e-5, 1e-4, 1e-3], own_ticks=True)
    places = [axis.place(value) for value, _ in axis.ticks]
    assert places[2] - places[1] == pytest.approx(places[1] - places[0]) and 0 < places[0] < places[2] < 1
    assert [text for _, text in axis.ticks] == ["1e-5", "1e-4", "1e-3"]


def test_points_below_the_axis_are_marked_on_its_edge() -> None:
    series = [Series("s", [Point(1, 0.2, label="low"), Point(2, 0.9), Point(3, 0.0, crossed=True)])]
    drawn = plot(series, Axis("x", 1, 10, [], "log"), linear_axis("y", 0.8, 1), "t", "d")
    assert drawn.count('class="arrow"') == drawn.count('class="cross"') == drawn.count('class="mark"') == 1


def test_curves_show_both_losses_of_a_run_in_one_style(tmp_path: Path) -> None:
    make_run(tmp_path / "a", lr=1e-4, val_f1=0.95)
    make_run(tmp_path / "b", lr=3e-4, val_f1=0.94)
    make_run(tmp_path / "c", lr=1e-1, val_f1=0.02)
    curves = _page(tmp_path).partition('id="curves"')[2].partition("</section>")[0]
    losses = curves.partition("Loss by epoch")[2]
    assert losses.count('class="s0"') == losses.count('class="s0 dashed"') == 1
    assert losses.count('class="s1"') == losses.count('class="s1 dashed"') == 1
    assert 'class="s2' not in losses  # a collapsed run's losses would hide the others
    assert "lr 1e-4" in curves


def test_the_true_label_of_a_text_is_shown_with_its_probability(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", quality=0.5)
    path = run / "predictions" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = next(row for row in rows if row["label"] != row["prediction"])
    others = [name for name in wrong["probabilities"] if name not in (wrong["label"], wrong["prediction"])]
    wrong["probabilities"] = dict.fromkeys(wrong["probabilities"], 0.0) | {
        wrong["prediction"]: 0.9, others[0]: 0.06, others[1]: 0.03, wrong["label"]: 0.0104,
    }  # fmt: skip
    wrong["title"] = "この題"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    row = next(part for part in _page(tmp_path).split("<tr>") if "この題" in part)
    expected = [f"{name} {p} %" for name, p in ((wrong["prediction"], 90.0), (others[0], "6.0"), (others[1], "3.0"))]
    assert ", ".join([*expected, f"{wrong['label']} 1.0 %"]) in row.replace("\N{NO-BREAK SPACE}", " ")


def test_costs_are_means_over_the_runs_and_named_by_their_devices(tmp_path: Path) -> None:
    for seed, seconds in ((1, 1000.0), (2, 3000.0)):
        make_run(tmp_path / str(seed), seed=seed, seconds=seconds)
    page = _page(tmp_path)
    assert "2,000 GPU-seconds" in page and "38 GiB" in page
    for seed in (1, 2):
        replace_json(tmp_path / str(seed) / "run.json", hardware="x86_64 CPU, 2 cores")
    assert "2,000 device-seconds" in _page(tmp_path)


@pytest.mark.parametrize(("baseline", "shown"), [(0.97, True), (0.80, True), (0.20, False), (None, False)])
def test_a_baseline_far_away_hides_no_runs(tmp_path: Path, baseline: float | None, shown: bool) -> None:
    for lr, quality in ((1e-4, 0.93), (3e-4, 0.85)):
        make_run(tmp_path / str(lr), lr=lr, quality=quality)
        make_run(tmp_path / f"m-{lr}", lr=lr, quality=quality - 0.01, model="m")
    settings = group(read_runs(tmp_path))
    for drawn in (by_lr(settings, baseline, []), by_model(settings, baseline)):
        assert drawn is not None and ("TF-IDF baseline" in drawn) == shown and 'class="arrow"' not in drawn


def test_a_baseline_far_above_hides_no_runs(tmp_path: Path) -> None:
    for lr, quality in ((1e-4, 0.45), (3e-4, 0.40)):
        make_run(tmp_path / str(lr), lr=lr, quality=quality)
    drawn = by_lr(group(read_runs(tmp_path)), 0.957, [])
    assert drawn is not None and 'class="arrow"' not in drawn and "TF-IDF baseline" not in drawn


def test_a_run_of_which_nothing_is_known_has_no_empty_heading(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "failed.json").write_text('{"reason": "of itself", "exit_code": 1}')
    page = _page(tmp_path)
    assert "of itself" in page and not re.search(r"<th[^>]*>(<span[^>]*>)?(</span>)?</th>", page)


def test_what_all_lines_over_the_learning_rate_share_is_said(tmp_path: Path) -> None:
    for model in ("a", "b", "c", "d", "e"):
        for template in (1, 2):
            for lr in (1e-4, 3e-4):
                val_f1 = 0.9 if template == 2 else 0.8
                make_run(tmp_path / f"{model}-{template}-{lr}", model=model, template=template, lr=lr, val_f1=val_f1)
    settings = group(read_runs(tmp_path))
    assert lr_note(settings) == " All lines: template 2." and lr_note(settings[:2]) == lr_note([]) == ""
    assert " All lines: template 2." in _page(tmp_path)
