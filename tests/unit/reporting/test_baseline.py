"""The classical baseline: fitted on the run's own split, cached, absent without the texts."""

import json
import re
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import sem, ttest_rel
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from llm_cls.config.schema import DataConfig
from llm_cls.data import load
from llm_cls.data.corpus import Corpus, Text
from llm_cls.metrics.scores import Scores
from llm_cls.metrics.statistics import ci95
from llm_cls.reporting import baseline
from llm_cls.reporting.analysis import Analysis, analyse, summary
from llm_cls.reporting.comparison import PairedBootstrap
from llm_cls.reporting.predictions import read_test_predictions
from llm_cls.reporting.runs import Run, read_runs
from llm_cls.reporting.settings import group
from tests.unit.reporting.run_directories import LABELS, make_run, make_split, predict

DIGEST = "d" * 64


def _texts(ids: Sequence[str]) -> list[Text]:
    return [Text(i, i.partition("/")[0], "題", f"{i.partition('/')[0]} についての記事 {n}") for n, i in enumerate(ids)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    make_run(tmp_path / "runs" / "a", data="sample", cache_dir=str(tmp_path / "cache"))
    (found,) = read_runs(tmp_path / "runs")
    return found


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Gives every configuration a corpus with the test texts of its synthetic runs; lists the names of loaded ones."""
    seen: list[str] = []

    def load_corpus(config: DataConfig) -> Corpus:
        seen.append(config.name)
        number = config.fold if config.folds else config.split_seed - 42
        test = _texts([row["id"].replace("-4000", f"-{4 + number}000") for row in predict(0.9, 180, 0)])
        train = _texts([f"{label}/{label}-{i}" for label in LABELS[number:] for i in range(20)])  # harder each time
        return Corpus(config.name, LABELS, {"train": train, "val": test, "test": test}, DIGEST, True)

    monkeypatch.setattr(load, "load_corpus", load_corpus)
    monkeypatch.setenv("LLM_CLS_CACHE", str(tmp_path / "cache"))
    return seen


def test_it_learns_and_is_fitted_once_for_a_digest(run: Run, loads: list[str]) -> None:
    first, why = baseline.baseline_of([run])
    assert first is not None and why == ""
    assert first.scores.f1 > 0.95 and first.interval[0] <= first.scores.f1 <= first.interval[1]
    texts = read_test_predictions(run)
    (predictions,) = first.on(texts)
    assert (predictions == texts.labels).mean() > 0.95
    second, _ = baseline.baseline_of([run])
    assert second == first and loads == ["sample"]


def test_a_damaged_cache_is_replaced(run: Run, loads: list[str], tmp_path: Path) -> None:
    baseline.baseline_of([run])
    (path,) = (tmp_path / "cache" / "baseline").iterdir()
    path.write_text('{"labels": {"a"')
    assert baseline.baseline_of([run])[0] is not None and len(loads) == 2


def test_its_cost_is_measured_once(run: Run, loads: list[str], tmp_path: Path) -> None:
    """The cache of an earlier version has none, so that the baseline is fitted again."""
    first, _ = baseline.baseline_of([run])
    assert first is not None and first.cost[0] is not None and first.cost[1] is not None
    assert 0 < first.cost[0] < 1000 and 1e-6 < first.cost[1] < 0.1
    (path,) = (tmp_path / "cache" / "baseline").iterdir()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert first.cost == (found["cost"]["ms_per_text"], found["cost"]["gib"])
    for wrong in (None, {}, {"ms_per_text": "x", "gib": 1}, {"ms_per_text": 1}):
        path.write_text(json.dumps(found | {"cost": wrong}), encoding="utf-8")
        again, _ = baseline.baseline_of([run])
        assert again is not None and again.scores == first.scores
    assert len(loads) == 5


def test_it_is_compared_with_the_winner(run: Run, loads: list[str], tmp_path: Path) -> None:
    found = analyse(tmp_path / "runs", None, with_baseline=True)
    assert found.against_baseline is not None and found.against_baseline.n_texts == 180
    assert "TF-IDF baseline" in " ".join(found.verdict())


def test_seeds_affect_only_the_winners_side(loads: list[str], tmp_path: Path) -> None:
    for seed, quality in enumerate((0.9, 0.95, 0.97)):
        make_run(
            tmp_path / "runs" / str(seed), data="sample", cache_dir=str(tmp_path / "c"), seed=seed, quality=quality
        )
    found = analyse(tmp_path / "runs", None, with_baseline=True)
    f1 = [run.metrics.test.f1 for run in found.runs if run.metrics and run.metrics.test]
    assert found.against_baseline is not None and len(f1) == 3
    assert found.against_baseline.run_error == pytest.approx(sem(f1))


@pytest.mark.parametrize("kind", ["fold", "split_seed"])
def test_it_is_fitted_on_every_split_of_the_winner(loads: list[str], tmp_path: Path, kind: str) -> None:
    for number, quality in enumerate((0.80, 0.70, 0.75)):
        for seed in (1, 2):
            directory = tmp_path / "runs" / f"{number}-{seed}"
            cache_dir = str(tmp_path / "cache")
            make_split(directory, number, kind, data="sample", cache_dir=cache_dir, seed=seed, quality=quality)
    found = analyse(tmp_path / "runs", None, with_baseline=True)
    assert found.winner is not None and found.baseline is not None and found.against_baseline is not None
    assert _printed_difference(found) == pytest.approx(_printed_figures(found), abs=0.011)
    assert len(loads) == 3  # seeds share a split
    columns, intervals = [], []
    for predictions in found.baseline.predictions:
        true, predicted = [i.partition("/")[0] for i in predictions], list(predictions.values())
        macro = precision_recall_fscore_support(true, predicted, labels=LABELS, average="macro", zero_division=0)
        columns.append((accuracy_score(true, predicted), *macro[:3]))
        intervals.append(ci95(confusion_matrix(true, predicted, labels=LABELS)))
    theirs = [column[3] for column in columns]
    assert len(set(theirs)) == 3
    assert astuple(found.baseline.scores) == pytest.approx(np.mean(columns, axis=0))
    assert found.baseline.interval == pytest.approx(np.mean(intervals, axis=0))
    f1 = [run.metrics.test.f1 for run in found.runs if run.metrics and run.metrics.test]
    ours = np.mean(np.reshape(f1, (3, 2)), axis=1)
    pair = found.against_baseline
    assert pair.n_texts == 3 * 180 and pair.difference == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert pair.run_error == pytest.approx(pair.difference / ttest_rel(ours, theirs).statistic)


def _printed_figures(found: Analysis) -> float:
    """Points between the printed scores of the winner and of the baseline."""
    winner, other = re.findall(r"test F1 ([0-9.]+)", "\n".join(summary(found)))
    return abs(float(winner) - float(other))


def _printed_difference(found: Analysis) -> float:
    """Points in the printed sentence on their comparison."""
    (points,) = re.findall(r"\((-?[0-9.]+) points", "\n".join(summary(found)))
    return abs(float(points))


def test_no_baseline_if_one_split_is_missing(loads: list[str], tmp_path: Path) -> None:
    for fold, digest in enumerate(("d" * 64, "e" * 64, "d" * 64)):
        make_split(tmp_path / str(fold), fold, data="sample", cache_dir=str(tmp_path / "cache"), digest=digest)
    found = analyse(tmp_path, None, with_baseline=True)
    assert found.baseline is None and found.against_baseline is None and "TF-IDF" not in "".join(summary(found))
    reason = "on the split of 1: the texts on this machine are not those of the runs"
    assert found.notes == (f"No classical baseline: {reason}.",)


def test_a_winner_without_all_predictions_is_not_compared(loads: list[str], tmp_path: Path) -> None:
    for fold in range(3):
        run = make_split(tmp_path / "runs" / str(fold), fold, data="sample", cache_dir=str(tmp_path / "cache"))
    (run / "predictions" / "test.jsonl").unlink()
    found = analyse(tmp_path / "runs", None, with_baseline=True)
    assert found.baseline is not None and found.against_baseline is None
    assert "not all of the winner's runs have readable predictions" in found.notes[-1]


def test_it_may_differ_between_splits_with_the_same_test_texts(loads: list[str], tmp_path: Path) -> None:
    for number, quality in enumerate((0.9, 0.8)):
        make_run(tmp_path / str(number), data="sample", quality=quality)
    runs = read_runs(tmp_path)
    texts = [read_test_predictions(run) for run in runs]
    said = [dict(zip(t.ids, (t.names[i] for i in t.predictions), strict=True)) for t in texts]
    f1 = [float(f1_score(t.labels, t.predictions, labels=range(9), average="macro")) for t in texts]
    both = baseline.Baseline(tuple(said), Scores(0, 0, 0, 0), (0, 0), 0)
    pair = PairedBootstrap().compare_baseline(group(runs[:1])[0], both)
    assert pair is not None and pair.n_texts == 180 and pair.difference == pytest.approx(f1[0] - np.mean(f1))


def test_texts_that_changed_are_refused(run: Run, loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.reporting.test_baseline.DIGEST", "e" * 64)
    assert baseline.baseline_of([run]) == (None, "the texts on this machine are not those of the runs")


def test_livedoor_is_never_downloaded(tmp_path: Path, loads: list[str]) -> None:
    make_run(tmp_path / "a", cache_dir=str(tmp_path / "cache"))
    (found,) = read_runs(tmp_path)
    none, why = baseline.baseline_of([found])
    assert none is None and "not on this machine" in why and loads == []
    archive = tmp_path / "cache" / "livedoor" / "x.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.touch()
    assert baseline.baseline_of([found])[0] is not None and loads == ["livedoor"]


def test_an_unwritable_cache_folder_is_ignored(tmp_path: Path, loads: list[str]) -> None:
    (tmp_path / "file").touch()
    make_run(tmp_path / "runs" / "a", data="sample", cache_dir=str(tmp_path / "file" / "below"))
    (found,) = read_runs(tmp_path / "runs")
    assert baseline.baseline_of([found])[0] is not None
