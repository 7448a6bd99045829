"""The page: one file, with all text escaped, that loads nothing."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llm_cls.reporting.analysis import analyse
from llm_cls.reporting.page import render
from tests.unit.reporting.run_directories import make_published, make_run

HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><svg onload=alert(1)>", "'; DROP TABLE--",
    "</script><iframe src=javascript:alert(1)>", "&lt;b&gt; &amp;", "\u202egnp.exe", "\x00\x1b[31m", "<!--", "]]>",
    "日本語の題", "javascript:alert(1)", "{{ 7 * 7 }}", "{% raw %}", "$\\frac{1}$ $x$",
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
        if tag != "meta":  # the only element here without an end tag
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
    del good.tags["span"], bad.tags["span"]  # each text that is not ASCII has one
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
    found = policy[1]
    directives = ["default-src 'none'", "style-src", "script-src", "base-uri 'none'", "form-action 'none'"]
    assert [part.partition(" 'sha256")[0] for part in found.split("; ")] == directives
    for name in ("style", "script"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", hostile, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}';" in found
    names = {name for name, _ in _Elements(hostile).attributes}
    assert not {n for n in names if n.startswith("on")} and not names & {"style", "src", "srcset"}


def test_links_lead_only_to_articles_sections_and_the_source(hostile: str) -> None:
    links = [value or "" for name, value in _Elements(hostile).attributes if name == "href"]
    outside = [link for link in links if not link.startswith("#")]
    allowed = r"https://news\.livedoor\.com/article/detail/[0-9]+/|https://github\.com/hppRC/llm-lora-classification"
    assert outside and all(re.fullmatch(allowed, link) for link in outside)
    anchors = {value for name, value in _Elements(hostile).attributes if name == "id"}
    assert all(link[1:] in anchors for link in links if link.startswith("#"))


def test_other_corpora_have_no_article_links(tmp_path: Path) -> None:
    make_run(tmp_path / "a", quality=0.7, data="sample")
    assert "news.livedoor.com" not in _page(tmp_path)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("published")
    make_published(directory, n_test=90, with_predictions=True)
    return _page(directory)


def test_ids_are_unique_and_references_lead_to_one(published: str) -> None:
    ids = re.findall(r'\sid="([^"]*)"', published)
    assert len(ids) == len(set(ids)) and {"best", "template", "lr", "batch_size", "r", "curves", "cost"} <= set(ids)
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', published))
    assert used and {first or second for first, second in used} <= set(ids)


def test_plots_and_tables_can_be_read_without_seeing_them(published: str) -> None:
    page = _Elements(published)
    assert page.tags["svg"] == page.tags["desc"] == page.attributes.count(("role", "img")) == 10
    assert page.tags["title"] > 100  # a tooltip for each point
    assert page.tags["caption"] == page.tags["table"] == page.attributes.count(("tabindex", "0"))
    assert page.tags["h1"] == 1 and page.tags["h2"] == page.tags["section"] + 1  # and the methods


def test_colours_follow_the_theme_and_plots_the_width(published: str) -> None:
    plots = re.findall(r"<svg .*?</svg>", published, flags=re.DOTALL)
    assert plots and all('viewBox="0 0 420 270"' in plot and "var(--s0)" in plot for plot in plots)
    assert not any(re.search(r'#[0-9a-f]{6}"|style=| (width|height)="[0-9.]+p', plot) for plot in plots)
    style = published.partition("<style>")[2].partition("</style>")[0]
    themes = style.count("--s0: #")
    for variable in set(re.findall(r"var\((--[a-z0-9]+)\)", published)):
        assert style.count(f"{variable}: ") == themes == 3, variable  # light, dark, print


def test_the_page_is_deterministic(tmp_path: Path) -> None:
    for lr in (1e-4, 3e-4):
        make_run(tmp_path / str(lr), lr=lr)
    assert _page(tmp_path) == _page(tmp_path)


def test_a_page_without_any_finished_run(tmp_path: Path) -> None:
    make_run(tmp_path / "a", status="pruned")
    page = _Elements(_page(tmp_path))
    assert "No run is finished" in page.text and page.open == []


def test_a_page_for_one_run(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    assert "The only setting." in _page(tmp_path)


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


def test_an_unreadable_run_adds_no_empty_heading(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "failed.json").write_text('{"reason": "of itself", "exit_code": 1}')
    page = _page(tmp_path)
    assert "of itself" in page and not re.search(r"<th[^>]*>(<span[^>]*>)?(</span>)?</th>", page)
