"""The classical baseline: fitted on the run's own split, cached, absent without the texts."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from run_directories import LABELS, make_run, predict
from scipy.stats import sem

from llm_cls.config import DataConfig
from llm_cls.data import load
from llm_cls.data.corpus import Corpus, Text
from llm_cls.report import baseline
from llm_cls.report.analysis import analyse
from llm_cls.report.predictions import read_test_predictions
from llm_cls.report.runs import Run, read_runs

DIGEST = "d" * 64


def _texts(ids: Sequence[str]) -> list[Text]:
    return [Text(i, i.partition("/")[0], "題", f"{i.partition('/')[0]} についての記事 {n}") for n, i in enumerate(ids)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    make_run(tmp_path / "runs" / "a", data="sample", cache_dir=str(tmp_path / "cache"))
    (found,) = read_runs(tmp_path / "runs")
    return found


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gives every configuration a corpus with the test texts of the synthetic runs; lists what was loaded."""
    seen: list[str] = []

    def load_corpus(config: DataConfig) -> Corpus:
        seen.append(config.name)
        test = _texts([row["id"] for row in predict(0.9, 180, 0)])
        train = _texts([f"{label}/{label}-{i}" for label in LABELS for i in range(20)])
        return Corpus(config.name, LABELS, {"train": train, "val": test, "test": test}, DIGEST, True)

    monkeypatch.setattr(load, "load_corpus", load_corpus)
    return seen


def test_it_learns_and_is_fitted_once_for_a_digest(run: Run, loads: list[str]) -> None:
    first, why = baseline.baseline_of(run)
    assert first is not None and why == ""
    assert first.scores.f1 > 0.95 and first.interval[0] <= first.scores.f1 <= first.interval[1]
    texts = read_test_predictions(run)
    assert first.covers(texts) and (first.on(texts) == texts.labels).mean() > 0.95
    second, _ = baseline.baseline_of(run)
    assert second == first and loads == ["sample"]


def test_a_damaged_cache_is_fitted_again(run: Run, loads: list[str], tmp_path: Path) -> None:
    baseline.baseline_of(run)
    (path,) = (tmp_path / "cache" / "baseline").iterdir()
    path.write_text('{"labels": {"a"')
    assert baseline.baseline_of(run)[0] is not None and len(loads) == 2


def test_it_is_compared_with_the_winner(run: Run, loads: list[str], tmp_path: Path) -> None:
    found = analyse(tmp_path / "runs", None, with_baseline=True)
    assert found.against_baseline is not None and found.against_baseline.n_texts == 180
    assert "TF-IDF baseline" in " ".join(found.verdict())


def test_seeds_move_the_difference_on_the_winners_side_alone(loads: list[str], tmp_path: Path) -> None:
    for seed, quality in enumerate((0.9, 0.95, 0.97)):
        make_run(
            tmp_path / "runs" / str(seed), data="sample", cache_dir=str(tmp_path / "c"), seed=seed, quality=quality
        )
    found = analyse(tmp_path / "runs", None, with_baseline=True)
    f1 = [run.metrics.test.f1 for run in found.runs if run.metrics and run.metrics.test]
    assert found.against_baseline is not None and len(f1) == 3
    assert found.against_baseline.run_error == pytest.approx(sem(f1))


def test_texts_that_changed_are_refused(run: Run, loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_report_baseline.DIGEST", "e" * 64)
    assert baseline.baseline_of(run) == (None, "the texts on this machine are not those of the runs")


def test_livedoor_is_never_downloaded(tmp_path: Path, loads: list[str]) -> None:
    make_run(tmp_path / "a", cache_dir=str(tmp_path / "cache"))
    (found,) = read_runs(tmp_path)
    none, why = baseline.baseline_of(found)
    assert none is None and "not on this machine" in why and loads == []
    archive = tmp_path / "cache" / "livedoor" / "x.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.touch()
    assert baseline.baseline_of(found)[0] is not None and loads == ["livedoor"]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, loads: list[str]) -> None:
    (tmp_path / "file").touch()
    make_run(tmp_path / "runs" / "a", data="sample", cache_dir=str(tmp_path / "file" / "below"))
    (found,) = read_runs(tmp_path / "runs")
    assert baseline.baseline_of(found)[0] is not None
