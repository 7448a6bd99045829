"""Reports on own texts: many labels, several files, scores other than F1, short runs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from sklearn.metrics import matthews_corrcoef

from llm_cls.errors import ArtifactError, ConfigError
from llm_cls.metrics.selection import MONITORS
from llm_cls.reporting.analysis import Analysis, analyse, summary
from llm_cls.reporting.corpora import same_data
from llm_cls.reporting.details import confused_pairs_table, confusion_of, texts_tables
from llm_cls.reporting.predictions import read_test_predictions
from llm_cls.reporting.runs import read_runs
from llm_cls.runs.predictions import read_predictions
from tests.jsonl import read_jsonl
from tests.unit.reporting.run_directories import LABELS, make_run, replace_json
from tests.unit.reporting.test_page import _Elements, _page
from tests.unit.reporting.test_sections import rows, section

LONG = "長い本文。" * 5000
PAIRS = ({"premise": "A man sleeps.", "hypothesis": "He is awake."}, {"premise": LONG, "hypothesis": "x" * 150})


def names(n: int) -> tuple[str, ...]:
    return tuple(f"label_{i:03}" for i in range(n))


@pytest.mark.parametrize("n_labels", [77, 150])
def test_a_confusion_matrix_of_many_labels_is_sorted_by_errors(n_labels: int, tmp_path: Path) -> None:
    make_run(tmp_path / "a", labels=names(n_labels), n_test=2 * n_labels, quality=0.7, texts=PAIRS)
    (run,) = read_runs(tmp_path)
    texts = read_test_predictions(run)
    counted = Counter((row["label"], row["prediction"]) for row in read_jsonl(run.path / "predictions" / "test.jsonl"))
    errors = {
        name: sum(n for (true, predicted), n in counted.items() if true != predicted and name in (true, predicted))
        for name in names(n_labels)
    }
    found = confusion_of(texts)
    assert found.is_large and "most errors" in found.note and sorted(found.names) == list(names(n_labels))
    assert [errors[name] for name in found.names] == sorted(errors.values(), reverse=True)
    for name, cells in found.rows:
        assert {p: n for p, (n, _) in zip(found.names, cells, strict=True) if n} == {
            predicted: n for (true, predicted), n in counted.items() if true == name
        }
    pairs = confused_pairs_table(texts)
    wrong = {pair: n for pair, n in counted.items() if pair[0] != pair[1]}
    assert len(pairs.rows) == 20 and f"{sum(wrong.values())} errors in {len(wrong)} pairs" in pairs.note
    assert [row["texts"] for row in pairs.rows] == sorted(wrong.values(), reverse=True)[:20]
    for row in pairs.rows:
        assert row["texts"] == wrong[row["label"], row["prediction"]] and row["share"] == row["texts"] / 2
        assert row["back"] == wrong.get((row["prediction"], row["label"]), 0)
    page = section(analyse(tmp_path, None, with_baseline=False), "winner")
    assert len(rows(page, "Confusion matrix")) == n_labels and len(rows(page, "Most confused pairs")) == 20
    (table,) = (t for t in page.iter("table") if "many" in (t.get("class") or ""))
    assert sum(int(text) for cell in table.iter("td") if (text := cell.text)) == 2 * n_labels


def test_few_labels_keep_their_order(tmp_path: Path) -> None:
    make_run(tmp_path / "a", quality=0.7)
    found = confusion_of(read_test_predictions(read_runs(tmp_path)[0]))
    assert found.names == LABELS and not found.is_large


def test_a_perfect_run_has_no_confused_pairs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", quality=1.0)
    assert not confused_pairs_table(read_test_predictions(read_runs(tmp_path)[0])).rows
    assert "Most confused pairs" not in _page(tmp_path)


def test_misclassified_texts_show_all_columns_and_long_ones_on_demand(tmp_path: Path) -> None:
    make_run(tmp_path / "a", quality=0.0, n_test=180, texts=PAIRS)
    texts = read_test_predictions(read_runs(tmp_path)[0])
    first, _ = texts_tables(texts, is_livedoor=False)
    assert len(first.rows) == 100 and "180 of 180 texts, the first 100 shown" in first.note
    assert [row["confidence"] for row in first.rows] == sorted((r["confidence"] for r in first.rows), reverse=True)
    page = section(analyse(tmp_path, None, with_baseline=False), "texts")
    cells = [row[0] for row in rows(page, "Misclassified texts")]
    assert {cell for cell in cells if "sleeps" in cell} == {"premise A man sleeps.hypothesis He is awake."}
    details = list(page.iter("details"))
    assert details and len(details) == sum("本文" in row[0] for t in ("Misclassified texts", "Least certain texts")
                                           for row in rows(page, t))  # fmt: skip
    for one in details:
        head, whole = ("".join(part.itertext()) for part in one)
        assert len(head) < 220 and head.startswith("premise 長い") and head.endswith("…")
        assert whole.startswith(LONG[:10_000]) and whole.endswith("… (the first 10,000 of 25,000 characters)")


def test_hostile_texts_add_no_element_and_no_attribute(tmp_path: Path) -> None:
    hostile = (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</details></td><b>",
        "\u202e\x00",
        "{{ 7 }}",
    )
    for name, column, texts in (("good", "a", ("x",)), ("bad", "<i>a", hostile)):
        many = tuple({column: text + "y" * 300, f"{column}2": text} for text in texts)
        make_run(tmp_path / name / "run", quality=0.5, texts=many)
    good, bad = (_Elements(_page(tmp_path / name)) for name in ("good", "bad"))
    del good.tags["span"], bad.tags["span"]
    assert good.tags == bad.tags and bad.open == []
    assert {name for name, _ in good.attributes} == {name for name, _ in bad.attributes}
    assert "<i>a <script>alert(1)</script>" in bad.text


@pytest.mark.parametrize("texts", ["a", ["a"], {"a": 1}, {"a": None}])
def test_texts_of_another_type_are_damage(texts: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", n_test=9, texts=({"a": "b"},))
    path = run / "predictions" / "test.jsonl"
    path.write_text("".join(json.dumps(row | {"columns": texts}) + "\n" for row in read_jsonl(path)), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"test.jsonl is damaged: columns must be strings by the names of their"):
        read_predictions(run, "test", LABELS)


def two_files(path: Path) -> None:
    for i, lr in enumerate((1e-4, 2e-4, 3e-4)):
        make_run(path / f"a{i}", data="table", file="/data/reviews.csv", digest="a" * 64, lr=lr, val_f1=0.7 + i / 10)
    make_run(path / "b", data="table", file="/data/intents.csv", digest="b" * 64, quality=0.8)
    make_run(path / "renamed", data="table", file="/other/old.csv", digest="a" * 64, lr=4e-4, val_f1=0.5)


def test_data_sets_are_listed_and_chosen_by_the_name_of_their_file(tmp_path: Path) -> None:
    two_files(tmp_path)
    runs = read_runs(tmp_path)
    assert {r.name for r in same_data(runs, None) if r.scored} == {"a0", "a1", "a2", "renamed"}
    for wanted in ("intents.csv", "intents", "bbbb"):
        assert {r.name for r in same_data(runs, wanted) if r.scored} == {"b"}
    with pytest.raises(ConfigError, match=r"got 'x.csv'. Known: reviews.csv \(a{12}\), .*intents.csv \(b{12}\)"):
        same_data(runs, "x.csv")
    found = analyse(tmp_path, None, with_baseline=False)
    line = (
        "Runs on 2 data sets: reviews.csv (4 runs, this report), intents.csv (1 run). data=NAME reports on another one."
    )
    assert line in found.notes and line in summary(found)
    listed = [row[:3] for row in rows(section(found, "data_sets"), "Data sets")]
    assert listed == [
        ["reviews.csv", "1", "lr 3e-4"], ["reviews.csv", "2", "lr 2e-4"], ["reviews.csv", "3", "lr 1e-4"],
        ["intents.csv", "1", "rinna/japanese-gpt-neox-3.6b, template 2, lr 5e-4, batch size 32, r 32"],
    ]  # fmt: skip
    other = {run.name: run.reason for run in found.runs if run.state == "other data"}
    assert other == {"b": f"intents.csv, {'b' * 12}, 180 test texts: another report"}
    one = analyse(tmp_path / "b", None, with_baseline=False)
    assert not [note for note in one.notes if "data sets" in note]
    assert "data_sets" not in {table.name for table in one.tables}


def test_a_mapping_of_many_labels_is_one_value_in_the_provenance(tmp_path: Path) -> None:
    for name, mapping in (("a", {str(i): label for i, label in enumerate(names(150))}), ("b", None)):
        run = make_run(tmp_path / name, lr=1e-4 if mapping else 2e-4)
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        config["data"]["label_names"] = mapping
        (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    found = analyse(tmp_path, None, with_baseline=False)
    page = section(found, "provenance")
    (headings,) = (row for row in page.iter("tr") if "data.label_names" in [c.text for c in row.iter("th")])
    assert len([c for c in headings if "label_names" in (c.text or "")]) == 1
    cells = {cell for row in rows(page, "Runs") for cell in row if cell.startswith("{'0': 'label_000'")}
    assert len(cells) == 1 and max(map(len, cells)) < 250, "shortened"
    assert all(not setting.extras for setting in found.settings), "the digest of the data counts instead"


def by_monitor(path: Path, monitor: str) -> Analysis:
    """Three runs; the second has the best val figure, and the worst F1 on val."""
    values = {"loss": (0.5, 0.3, 0.4)}.get(monitor, (0.8, 0.9, 0.7))
    for i, (lr, value) in enumerate(zip((1e-4, 2e-4, 3e-4), values, strict=True)):
        f1 = {"val_f1": value} if monitor == "f1" else {"val_f1": 0.9 - 0.1 * (i == 1)}
        make_run(path / str(i), lr=lr, monitor=monitor, val_monitor=value, quality=0.9 - 0.05 * i, **f1)
    return analyse(path, None, with_baseline=False)


@pytest.mark.parametrize("monitor", MONITORS)
def test_settings_are_ranked_and_scored_by_the_monitored_score(monitor: str, tmp_path: Path) -> None:
    found = by_monitor(tmp_path, monitor)
    assert found.winner is not None and found.winner.axes["lr"] == 2e-4
    title, on_test = MONITORS[monitor].title, MONITORS[monitor].on_test
    page = _page(tmp_path)
    assert f"Epochs and settings are chosen on val {title} and scored on test" in page
    assert f"Best val {title} of 3 settings" in page
    assert f"Winner on val {title}: lr 2e-4, test {MONITORS[on_test].title} " in summary(found)[1]
    (table,) = (t for t in found.tables if t.name == "all")
    lines = {line["run"]: line for line in table.rows}
    headings = {column.key: column.heading for column in table.shown_columns}
    assert headings[f"val_{monitor}"] == f"Val {title}" and f"test_{on_test}_low" in headings
    winner = found.winner.runs[0]
    assert winner.metrics is not None
    interval = winner.metrics.test.f1_ci95 if on_test == "f1" else winner.metrics.test.monitor_ci95
    assert interval is not None and found.winner.interval == tuple(interval)
    row = lines["1"]
    assert float(row[f"val_{monitor}"]) == pytest.approx(0.3 if monitor == "loss" else 0.9)
    assert float(row[f"test_{on_test}_low"]) == pytest.approx(interval[0])
    texts = read_test_predictions(winner)
    if monitor == "mcc":
        assert float(row["test_mcc"]) == pytest.approx(matthews_corrcoef(texts.labels, texts.predictions), abs=1e-12)
    (pair,) = (pair for pair in found.comparisons if "1e-4" in pair.other)
    scores = [float(lines[name][f"test_{on_test}"]) for name in ("0", "1")]
    assert pair.difference == pytest.approx(scores[1] - scores[0], abs=1e-12)


def test_runs_with_other_monitors_are_listed_but_not_ranked(tmp_path: Path) -> None:
    by_monitor(tmp_path / "f1", "f1")
    make_run(tmp_path / "other", lr=9e-4, monitor="mcc", val_monitor=0.99, quality=0.99)
    found = analyse(tmp_path, None, with_baseline=False)
    assert found.monitor.name == "f1" and len(found.settings) == 3
    assert "1 run selected on val MCC is listed, not ranked: monitor=mcc ranks it." in found.notes
    (aside,) = (run for run in found.runs if run.state == "other monitor")
    assert aside.reason == "selected on val MCC: another report (monitor=mcc)"
    chosen = analyse(tmp_path, None, with_baseline=False, monitor="mcc")
    assert chosen.winner is not None and chosen.winner.axes["lr"] == 9e-4
    with pytest.raises(ConfigError, match=r"^monitor must be .* got loss. Known: f1, mcc$"):
        analyse(tmp_path, None, with_baseline=False, monitor="loss")


def test_a_monitored_score_that_the_predictions_do_not_give_is_damage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", monitor="mcc", quality=0.9)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    replace_json(run / "metrics.json", test=metrics["test"] | {"mcc": 0.123})
    (found,) = read_runs(tmp_path)
    assert found.state == "damaged" and "states test.mcc 0.123, but the predictions" in found.reason
    for split in ("val", "test"):
        replace_json(run / "metrics.json", **metrics)
        replace_json(run / "metrics.json", **{split: {k: v for k, v in metrics[split].items() if k != "mcc"}})
        (found,) = read_runs(tmp_path)
        assert found.state == "damaged" and f"status is finished, but {split}.mcc is null" in found.reason


def test_an_older_run_is_a_run_with_the_defaults(tmp_path: Path) -> None:
    """Its configuration lacks the younger keys."""
    make_run(tmp_path / "old", seed=1)
    make_run(tmp_path / "new", seed=2, monitor="f1")
    (setting,) = analyse(tmp_path, None, with_baseline=False).settings
    assert len(setting.runs) == 2 and not setting.extras


@pytest.mark.parametrize(("n_test", "reason"), [(18, "too few steps: 50, where some 200 are usual"), (180, "")])
def test_a_collapsed_run_of_few_steps_says_so(n_test: int, reason: str, tmp_path: Path) -> None:
    make_run(tmp_path / "a", quality=0.1, n_test=n_test)  # 8 times as many training texts, in steps of 32, 10 epochs
    (table,) = (t for t in analyse(tmp_path, None, with_baseline=False).tables if t.name == "all")
    assert [(row["state"], row["reason"] or "") for row in table.rows] == [("collapsed", reason)]
