"""The paired comparisons and the sentences on them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel
from sklearn.metrics import f1_score

from llm_cls.reporting.analysis import Analysis, analyse, summary
from llm_cls.reporting.comparison import Comparison, holm_corrected, sentence
from llm_cls.reporting.names import full_name, name_common, name_setting, replicates
from llm_cls.reporting.page import render
from llm_cls.reporting.predictions import read_test_predictions
from llm_cls.reporting.runs import read_runs
from llm_cls.reporting.settings import group
from tests.unit.reporting.run_directories import make_run, make_split


def _analyse(directory: Path) -> Analysis:
    return analyse(directory, None, with_baseline=False)


def test_the_winner_is_chosen_on_val_and_compared_on_the_same_texts(tmp_path: Path) -> None:
    make_run(tmp_path / "a", lr=1e-4, quality=0.90, val_f1=0.99)
    make_run(tmp_path / "b", lr=3e-4, quality=0.95, val_f1=0.98)
    make_run(tmp_path / "c", lr=5e-4, quality=0.50, val_f1=0.50)
    found = _analyse(tmp_path)
    assert found.winner is not None and found.winner.axes["lr"] == 1e-4 and found.name == "lr 1e-4"
    assert [pair.other for pair in found.comparisons] == ["lr 3e-4", "lr 5e-4"]
    second, worst = found.comparisons
    texts = {run.name: read_test_predictions(run) for run in found.runs}
    f1 = {
        name: f1_score(t.labels, t.predictions, labels=range(9), average="macro", zero_division=0)
        for name, t in texts.items()
    }
    assert (
        second.difference == pytest.approx(f1["a"] - f1["b"])
        and second.interval[0] < second.difference < second.interval[1]
    )
    a_right, b_right = (texts[name].predictions == texts[name].labels for name in "ab")
    assert (second.only_winner, second.only_other) == ((a_right & ~b_right).sum(), (b_right & ~a_right).sum())
    assert worst.significant and worst.p_bootstrap < 0.01 and worst.p_mcnemar < 1e-6 and worst.interval[0] > 0.2


def test_equal_predictions_do_not_differ(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", lr=1e-4)
    make_run(tmp_path / "b", lr=3e-4, predictions=first / "predictions")
    (pair,) = _analyse(tmp_path).comparisons
    assert (pair.difference, pair.p_bootstrap, pair.p_mcnemar, pair.significant) == (0, 1, 1, False)


def test_several_seeds_are_compared_by_their_mean(tmp_path: Path) -> None:
    for lr, qualities in ((1e-4, (0.90, 0.96)), (3e-4, (0.80, 0.82))):
        for seed, quality in enumerate(qualities):
            make_run(tmp_path / f"{lr}-{seed}", lr=lr, seed=seed, quality=quality)
    found = _analyse(tmp_path)
    assert found.winner is not None
    one, other = group(found.runs)
    assert found.comparisons[0].difference == pytest.approx(one.test("f1") - other.test("f1"))
    assert replicates(found.winner) == "2 seeds" and "over 2 runs" in " ".join(summary(found))


def test_missing_predictions_are_noted_and_stop_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "a", lr=1e-4, quality=0.96)
    make_run(tmp_path / "b", lr=3e-4, quality=0.9)
    broken = make_run(tmp_path / "c", lr=5e-4, quality=0.8)
    (broken / "predictions" / "test.jsonl").unlink()
    found = _analyse(tmp_path)
    assert [pair.other for pair in found.comparisons] == ["lr 3e-4"]
    assert any("Not compared: lr 5e-4" in note for note in found.notes)
    (tmp_path / "a" / "predictions" / "test.jsonl").unlink()
    found = _analyse(tmp_path)
    assert found.texts is None and found.comparisons == () and "test.jsonl" in found.notes[0]


def test_runs_on_other_test_texts_are_not_paired(tmp_path: Path) -> None:
    make_run(tmp_path / "a", lr=1e-4, quality=0.96)
    other = make_run(tmp_path / "b", lr=3e-4, quality=0.9)
    path = other / "predictions" / "test.jsonl"
    path.write_text(path.read_text().replace("4000000", "5000000"))
    assert _analyse(tmp_path).comparisons == ()


@pytest.mark.parametrize(
    "line",
    ['{"id": 1', "[]", "null", '{"id": 1, "label": "none", "prediction": "smax", "probabilities": {}}'],
)
def test_a_broken_line_is_a_value_error(tmp_path: Path, line: str) -> None:
    run = make_run(tmp_path / "a")
    (run / "predictions" / "test.jsonl").write_text(line + "\n")
    (found,) = read_runs(tmp_path)
    with pytest.raises(ValueError):
        read_test_predictions(found)


def _pair(difference: float, p: float, run_error: float | None = None) -> Comparison:
    interval = (difference - 0.004, difference + 0.004)
    return Comparison("A", "B", difference, interval, p, p, run_error, 3, 5, 736)


def test_the_sentence_is_plain_and_honest() -> None:
    assert sentence("A", "B", _pair(0.0045, 0.2)) == (
        "The difference between A and B (0.45 points) is not significant on 736 texts."
    )
    assert "(-0.45 points)" in sentence("A", "B", _pair(-0.0045, 0.2))
    assert sentence("A", "B", _pair(0.012, 0.001)) == (
        "The difference between A and B (1.20 points, 95 %: 0.80 to 1.60) is significant on 736 texts: A is better."
    )
    assert sentence("A", "B", _pair(-0.012, 0.001)).startswith(
        "The difference between B and A (1.20 points, 95 %: 0.80"
    )


def test_a_difference_within_the_error_over_seeds_makes_no_winner() -> None:
    assert sentence("A", "B", _pair(0.012, 0.001, 0.007)) == (
        "The difference between A and B (1.20 points, 95 %: 0.80 to 1.60) is significant on 736 texts, "
        "but other seeds or folds could reverse it: its standard error over the runs is 0.70 points."
    )
    assert sentence("A", "B", _pair(0.012, 0.001, 0.005)).endswith(": A is better.")
    assert "not significant on 736 texts" in sentence("A", "B", _pair(0.012, 0.2, 0.007))


def test_a_large_error_over_seeds_is_reported(tmp_path: Path) -> None:
    qualities = {1e-4: (0.99, 0.80, 0.98), 3e-4: (0.90, 0.78, 0.92)}
    for lr, values in qualities.items():
        for seed, quality in enumerate(values):
            make_run(tmp_path / f"{lr}-{seed}", lr=lr, seed=seed, quality=quality)
    found = _analyse(tmp_path)
    (pair,) = found.comparisons
    first, second = ([run.metrics.test.f1 for run in setting.runs] for setting in group(found.runs))
    t = ttest_ind(first, second, equal_var=False).statistic  # Welch's: the difference over its standard error
    assert pair.run_error == pytest.approx(pair.difference / t)
    assert pair.significant and not pair.exceeds_run_error
    assert "other seeds or folds could reverse it" in " ".join(summary(found))
    assert "on these runs only" in render(found, "sweep", "now")


def test_folds_are_paired(tmp_path: Path) -> None:
    for lr, qualities in ((1e-4, (0.98, 0.82, 0.92)), (3e-4, (0.94, 0.77, 0.90))):
        for fold, quality in enumerate(qualities):
            make_split(tmp_path / f"{lr}-{fold}", fold, lr=lr, quality=quality, digest=str(fold) * 64)
    found = _analyse(tmp_path)
    (pair,) = found.comparisons
    first, second = ([run.metrics.test.f1 for run in setting.runs] for setting in group(found.runs))
    assert pair.n_texts == 3 * 180 and pair.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert pair.run_error == pytest.approx(pair.difference / ttest_rel(first, second).statistic)
    assert found.winner is not None and replicates(found.winner) == "3 folds"


def test_each_test_text_is_counted_once_and_each_pair_has_its_own(tmp_path: Path) -> None:
    for lr, splits in ((1e-4, (0, 1)), (3e-4, (0, 1)), (5e-4, (0,))):
        for number in splits:
            run = make_run(tmp_path / f"{lr}-{number}", lr=lr, quality=0.95 - 100 * lr, split_seed=number)
            texts = run / "predictions" / "test.jsonl"
            texts.write_text(texts.read_text(encoding="utf-8").replace("-40000", f"-{4 + number}0000"))  # 100 of 180
    found = _analyse(tmp_path)
    assert [pair.n_texts for pair in found.comparisons] == [280, 180]
    assert "on the same 180 to 280 texts" in render(found, "sweep", "now")


def test_p_values_are_corrected_over_the_pairs() -> None:
    assert [p.p_bootstrap for p in holm_corrected([_pair(0, 0.01), _pair(0, 0.04), _pair(0, 0.03)])] == pytest.approx(
        [0.03, 0.06, 0.06]
    )


def test_settings_are_named_by_what_differs(tmp_path: Path) -> None:
    for i, axes in enumerate(({"lr": 1e-4, "template": 0}, {"lr": 3e-4, "template": 2})):
        make_run(tmp_path / str(i), **axes)
    settings = group(read_runs(tmp_path))
    assert [name_setting(s, settings) for s in settings] == ["template 0, lr 1e-4", "template 2, lr 3e-4"]
    assert name_setting(settings[0], settings[:1]) == "rinna/japanese-gpt-neox-3.6b"
    assert name_common(settings[:1], settings) == "template 0, lr 1e-4" and name_common(settings, settings) == ""
    assert full_name(settings[1]) == "rinna/japanese-gpt-neox-3.6b, template 2, lr 3e-4, batch size 32, r 32"


def test_nothing_finished_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "a", status="diverged")
    found = _analyse(tmp_path)
    assert found.winner is None and list(summary(found)) == ["1 run: 1 diverged", *found.notes]
    assert np.all([table.name == "all" for table in found.tables])
