"""The published tables, and cells that survive spreadsheets and pandas."""

import csv
import io
import math
from pathlib import Path

import pandas as pd
import pytest

from llm_cls.metrics.percent import percent
from llm_cls.reporting.export import defuse, to_csv, to_markdown
from llm_cls.reporting.formatting import cell, rate
from llm_cls.reporting.published import published_rows
from llm_cls.reporting.runs import read_runs
from llm_cls.reporting.settings import group
from llm_cls.reporting.tables import TABLES, Column, Table, all_tables
from tests.unit.reporting.run_directories import make_published, make_run


@pytest.fixture(scope="module")
def published_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    directory = tmp_path_factory.mktemp("published")
    make_published(directory, n_test=90)
    runs = read_runs(directory)
    return {table.name: table for table in all_tables(runs, group(runs))}


def _frame(table: Table) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(to_csv(table)))


def test_every_table_has_its_name_in_the_list(published_tables: dict[str, Table]) -> None:
    assert {*published_tables, "data_sets", "sufficient"} == set(TABLES)  # of several data sets; of compared settings


def test_the_source_has_160_rows() -> None:
    assert len(published_rows()) == 160


def test_best_per_model_is_the_published_table(published_tables: dict[str, Table]) -> None:
    frame = _frame(published_tables["best"])
    assert frame["test_f1"].tolist() == [97.75, 97.30, 97.27, 97.18, 96.55, 96.42, 93.98]
    assert frame["test_accuracy"].tolist() == [97.96, 97.55, 97.55, 97.55, 97.01, 96.88, 94.43]
    assert frame["test_precision"].tolist() == [97.77, 97.24, 97.32, 97.03, 96.76, 96.38, 94.24]
    assert frame["test_recall"].tolist() == [97.76, 97.39, 97.27, 97.37, 96.42, 96.51, 93.80]
    assert frame["model"].str.rpartition("/")[2].tolist() == [
        "japanese-gpt-neox-3.6b-instruction-sft-v2", "japanese-gpt-neox-3.6b", "japanese-gpt-neox-3.6b-instruction-sft",
        "japanese-gpt-neox-3.6b-instruction-ppo", "open-calm-7b", "open-calm-3b", "open-calm-1b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("rinna/japanese-gpt-neox-3.6b-instruction-sft-v2", [(2, 97.27, 97.75), (1, 97.18, 97.14), (0, 97.05, 96.80)]),
        ("rinna/japanese-gpt-neox-3.6b", [(1, 97.14, 97.30), (2, 96.92, 97.36), (0, 96.61, 96.69)]),
        ("cyberagent/open-calm-7b", [(1, 97.22, 96.55), (0, 97.07, 96.56), (2, 96.88, 96.85)]),
    ],
)
def test_per_template_is_the_published_table(
    published_tables: dict[str, Table], model: str, expected: list[tuple[int, float, float]]
) -> None:
    frame = _frame(published_tables["template"])
    rows = frame[frame["model"] == model][["template", "val_f1", "test_f1"]]
    assert [tuple(row) for row in rows.itertuples(index=False)] == expected


def test_per_learning_rate_is_the_published_table(published_tables: dict[str, Table]) -> None:
    frame = _frame(published_tables["lr"])
    rows = frame[frame["model"] == "rinna/japanese-gpt-neox-3.6b"]
    assert set(rows["template"]) == {2} and set(rows["lora_r"]) == set(rows["batch_size"]) == {32}
    assert rows["lr"].tolist() == [5e-2, 3e-2, 1e-2, 5e-3, 3e-3, 1e-3, 5e-4, 3e-4, 1e-4, 5e-5, 3e-5, 1e-5]
    assert rows["test_f1"].tolist() == [2.54, 2.54, 2.54, 28.21, 2.54, 97.36, 97.93, 96.30, 96.76, 95.58, 93.55, 79.62]


def test_per_r_is_the_published_table(published_tables: dict[str, Table]) -> None:
    frame = _frame(published_tables["r"])
    assert [tuple(row) for row in frame[["lora_r", "lr", "val_f1", "test_f1"]].itertuples(index=False)] == [
        (8, 5e-4, 97.45, 96.83), (64, 1e-3, 97.22, 96.89), (16, 1e-3, 97.20, 97.38), (4, 3e-4, 97.12, 97.40),
        (32, 1e-3, 96.92, 97.36),
    ]  # fmt: skip


def test_per_batch_size_chooses_the_learning_rate_on_val(published_tables: dict[str, Table]) -> None:
    frame = _frame(published_tables["batch_size"])
    rows = [r for r in published_rows() if r["model"] == "rinna/japanese-gpt-neox-3.6b" and r["template"] == 2
            and r["lora_r"] == 32 and r["lr"] in (1e-4, 3e-4, 5e-4, 1e-3)]  # fmt: skip
    for batch_size in (2, 4, 8, 16, 32, 64):
        best = max((r for r in rows if r["batch_size"] == batch_size), key=lambda r: r["val_f1"])
        ours = frame[frame["batch_size"] == batch_size].iloc[0]
        assert ours["lr"] == best["lr"] and abs(ours["test_f1"] - 100 * best["test_f1"]) <= 0.00501


def test_all_runs_are_the_published_rows_in_order_with_no_difference(published_tables: dict[str, Table]) -> None:
    frame = _frame(published_tables["all"])
    source = pd.read_csv(Path(__file__).parents[3] / "llm_cls/assets/reference/published_results.csv")
    assert list(frame.columns[: len(source.columns)]) == list(source.columns)
    assert frame["published_test_f1"].equals(frame["test_f1"]) and (frame["difference"] == 0).all()
    for name in source.columns:
        expected = source[name]
        if name.startswith(("val", "test")):
            expected = expected.map(lambda figure: math.floor(100 * round(100 * figure, 6) + 0.5) / 100)
        pd.testing.assert_series_equal(frame[name], expected, check_names=False, check_dtype=False)


def test_an_unpublished_setting_has_no_published_figure(tmp_path: Path) -> None:
    make_run(tmp_path / "a", lr=5e-4, test=dict.fromkeys(("accuracy", "precision", "recall", "f1"), 0.98))
    make_run(tmp_path / "b", lr=7e-4)
    make_run(tmp_path / "c", lr=5e-4, data="sample")
    rows = {row["run"]: row for table in all_tables(read_runs(tmp_path), []) for row in table.rows}
    assert rows["a"]["published_test_f1"] == 0.97925 and rows["a"]["difference"] == pytest.approx(0.00075)
    assert rows["b"]["published_test_f1"] is rows["c"]["published_test_f1"] is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("weights: pretrained", "weights: random"), ("max_epochs: 10", "max_epochs: 3"), ("limit: null", "limit: 300"),
        ("max_length: 512", "max_length: 64"), ("split_seed: 42", "split_seed: 7"),
        ("lora_alpha: 16.0", "lora_alpha: 32"),
        ("target_modules: null", "target_modules: all-linear"), ("limit: null", "limit: null\n  folds: 5"),
    ],
)  # fmt: skip
def test_another_recipe_has_no_published_figure(tmp_path: Path, old: str, new: str) -> None:
    run = make_run(tmp_path / "a", lr=5e-4)
    (row,) = all_tables(read_runs(tmp_path), [])[-1].rows
    assert row["published_test_f1"] == 0.97925
    config = (run / "config.yaml").read_text(encoding="utf-8")
    assert config.count(old) == 1
    (run / "config.yaml").write_text(config.replace(old, new), encoding="utf-8")
    (row,) = all_tables(read_runs(tmp_path), [])[-1].rows
    assert row["published_test_f1"] is None and row["difference"] is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(5e-4, "5e-4"), (0.0001, "1e-4"), (1e-2, "1e-2"), (0.05, "5e-2"), (2.5e-5, "2.5e-5"), (0.1, "0.1"), (5, "5")],
)
def test_learning_rates_are_written_as_typed_and_as_published(value: float, text: str) -> None:
    assert rate(value) == cell(value, "rate") == text and float(text) == value
    assert to_csv(Table("t", "T", "", (Column("lr", "LR", "rate"),), ({"lr": value},))).splitlines()[1] == repr(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.97925, "97.93"), (0.97395, "97.40"), (-0.0045, "-0.45"), (-1e-9, "0.00"), (1, "100.00"), (1e-12, "0.00")],
)
def test_percentages_are_rounded_half_away_from_zero(value: float, text: str) -> None:
    assert str(percent(value)) == text


HOSTILE = [
    "=1+1",
    "+cmd",
    "-2",
    "@SUM(A1)",
    "\tx",
    "＝1",
    'a"b,c',
    "a\nb",
    "日本語",
    "NA",
    "",
    "plain",
    "\x00\x1b[2J",
    "\ud800",
]
TABLE = Table(
    "t", "T", "note",
    (Column("text", "Text"), Column("n", "N", "number"), Column("p", "P", "percent"), Column("d", "D", "points")),
    tuple({"text": text, "n": i or None, "p": i / 7, "d": -i / 9} for i, text in enumerate(HOSTILE)),
)  # fmt: skip


def test_formulas_are_defused_and_numbers_stay_numbers() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(TABLE))))[1:]
    assert len(rows) == len(HOSTILE)
    for text, *numbers in rows:
        assert not text or text[0] not in "=+-@\t\r\n＝＋－＠"
        assert all(number == "" or math.isfinite(float(number)) for number in numbers)
    assert rows[3][3] == "-33.33" and rows[3][0] == "'@SUM(A1)"


def test_defusing_does_not_change_other_text() -> None:
    assert [defuse(text) for text in ("a=b", "日本語", "rinna/x-1")] == ["a=b", "日本語", "rinna/x-1"]


def test_pandas_reads_scores_as_numbers_and_every_row(published_tables: dict[str, Table]) -> None:
    for table in published_tables.values():
        frame = _frame(table)
        assert len(frame) == len(table.rows)
        scores = [column.key for column in table.columns if column.kind in ("percent", "points")]
        assert all(pd.api.types.is_numeric_dtype(frame[key]) for key in scores)


def test_a_table_without_rows_has_its_heading() -> None:
    empty = Table("t", "T", "", (Column("a", "A"), Column("b", "B")), ())
    assert to_csv(empty) == "a,b\n" and to_markdown(empty).splitlines() == ["# T", "", "", "", "|  |", "|  |"]


def test_an_axis_that_no_model_varies_has_no_table(tmp_path: Path) -> None:
    make_run(tmp_path / "a", template=0, model="m")
    make_run(tmp_path / "b", template=1, model="n")
    runs = read_runs(tmp_path)
    assert [table.name for table in all_tables(runs, group(runs))] == ["best", "all"]


def test_markdown_has_one_line_for_each_row_of_any_text() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert len(lines) == 6 + len(HOSTILE)
    hostile = Table("t", "T", "", (Column("a", "A"),), ({"a": "x | <img src=x> `y` [z](javascript:0)\n# h"},))
    assert to_markdown(hostile).splitlines()[-1] == r"| x \| \<img src=x\> \`y\` \[z\](javascript:0) # h |"
