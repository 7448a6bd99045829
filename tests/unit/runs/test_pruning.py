"""Which runs end early."""

from pathlib import Path

import numpy as np
import pytest

from llm_cls.config.schema import PrunerConfig
from llm_cls.errors import ArtifactError
from llm_cls.metrics.evaluation import Evaluation, evaluate
from llm_cls.metrics.selection import MONITORS
from llm_cls.runs.layout import JOURNAL
from llm_cls.runs.pruning import Pruner, has_collapsed, outputs, read_outputs
from llm_cls.runs.sweep import Entry, write_plan

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 9, 200)


def judged(logits: np.ndarray) -> Evaluation:
    return evaluate(logits.astype(np.float32), LABELS)


def with_f1(hits: int) -> Evaluation:
    """The first ``hits`` texts right, the others wrong."""
    logits = np.zeros((200, 9))
    answers = np.where(np.arange(200) < hits, LABELS, (LABELS + 1) % 9)
    logits[np.arange(200), answers] = 5
    return judged(logits)


def test_one_answer_for_all_texts_is_a_collapse() -> None:
    constant = np.tile(RANDOM.normal(size=9), (200, 1))
    assert has_collapsed(judged(constant))
    assert has_collapsed(judged(constant + RANDOM.normal(size=(200, 9)) * 1e-3))


def test_an_untrained_network_has_not_collapsed() -> None:
    """A head of a fresh network: one label may well win everywhere, but each text has its own probabilities."""
    untrained = RANDOM.normal(size=(200, 9)) * 0.2
    untrained[:, 4] += 2
    evaluation = judged(untrained)
    assert set(evaluation.predictions) == {4} and evaluation.collapsed
    assert not has_collapsed(evaluation)
    assert not has_collapsed(with_f1(150))
    assert not has_collapsed(judged(np.full((200, 9), np.nan))), "diverged, which ends a run anyway"


def sweep(path: Path, n: int) -> list[Path]:
    write_plan(path, [Entry(directory=f"r{i}", overrides=[], swept=[]) for i in range(n)])
    return [path / f"r{i}" for i in range(n)]


def trained(config: PrunerConfig, run: Path, hits: list[int], monitor: str = "f1") -> int:
    """Epochs that a run of these val scores gets."""
    pruner = Pruner(config, run, len(hits), monitor=MONITORS[monitor])
    for epoch, n in enumerate(hits, 1):
        if pruner.should_stop(epoch, with_f1(n)):
            pruner.end(0.1, True)
            return epoch
    pruner.end(0.1, False)
    return len(hits)


def test_median_compares_late_and_after_some_runs(tmp_path: Path) -> None:
    config = PrunerConfig(name="median", startup_runs=2, warmup_fraction=0.5)
    runs = sweep(tmp_path, 6)
    assert trained(config, runs[0], [20] * 6) == 6, "nothing to be compared with"
    assert trained(config, runs[1], [100] * 6) == 6
    assert trained(config, runs[2], [30] * 6) == 4, "below the median, but not in the first half"
    assert trained(config, runs[3], [10, 10, 150, 150, 150, 150]) == 6, "good late"
    assert trained(config, runs[4], [150, 10, 10, 10, 10, 10]) == 6, "by the best epoch so far"


def test_a_run_far_behind_the_best_ends_early_and_a_late_one_does_not(tmp_path: Path) -> None:
    """Of an F1 of 0.5, allowed at epoch 2 of 10 is a gap of 16 %, 8 points, then of two standard errors, 7.1 points."""
    config = PrunerConfig(name="median", startup_runs=99, max_lag=0.25)
    runs = sweep(tmp_path, 6)
    assert trained(config, runs[0], [100] * 10) == 10, "nothing to be compared with"
    assert trained(config, runs[1], [10, *[50] * 9]) == 2, "the first epoch says nothing"
    assert trained(config, runs[2], [85] * 10) == 3, "no longer catching up"
    assert trained(config, runs[3], [88] * 10) == 10, "so close that the val texts can't tell"
    assert trained(config, runs[4], [10, 88, 92, 94, 97, *[101] * 5]) == 10, "late, and the winner"
    assert trained(PrunerConfig(name="median", startup_runs=99), runs[5], [10] * 10) == 10, "the rule is a choice"


def test_running_runs_count_too(tmp_path: Path) -> None:
    config = PrunerConfig(name="median", startup_runs=99, max_lag=0.25)
    runs = sweep(tmp_path, 2)
    good, bad = (Pruner(config, run, 10) for run in runs)
    assert not bad.should_stop(1, with_f1(60))
    assert not good.should_stop(1, with_f1(150))
    assert bad.should_stop(2, with_f1(60)), "behind one that has trained less"
    assert not good.should_stop(2, with_f1(150))


def test_runs_on_other_texts_and_removed_runs_are_not_compared(tmp_path: Path) -> None:
    config = PrunerConfig(name="median", startup_runs=99, max_lag=0.25)
    runs = sweep(tmp_path, 2)
    easy = Pruner(config, runs[0], 10, "easy texts")
    for epoch in (1, 2, 3):
        assert not easy.should_stop(epoch, with_f1(190))
    hard = Pruner(config, runs[1], 10, "hard texts")
    assert not any(hard.should_stop(epoch, with_f1(60)) for epoch in (1, 2, 3))
    again = Pruner(config, runs[0], 10, "hard texts")  # of the name of another run, on its own texts
    assert not any(again.should_stop(epoch, with_f1(100)) for epoch in (1, 2))
    hard.end(0.3, False)
    removed = Pruner(config, runs[1], 10, "hard texts")  # its folder was removed, and it starts again, now worse
    assert not removed.should_stop(1, with_f1(20)) and removed.should_stop(2, with_f1(20))


def test_a_damaged_journal_is_named_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    config = PrunerConfig(name="median", startup_runs=1, warmup_fraction=0, max_lag=0.25)
    first, second, third = sweep(tmp_path, 3)
    assert trained(config, first, [150] * 4) == 4
    journal = tmp_path / JOURNAL
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')
    assert trained(config, second, [10] * 4) == 1, "the others are known all the same"
    journal.write_text("garbage\n" + journal.read_text())
    with pytest.raises(ArtifactError, match=rf"{JOURNAL} is damaged: .*Remove it"):
        trained(config, third, [10] * 4)


def test_hyperband_ends_some_runs_but_not_the_best(tmp_path: Path) -> None:
    config = PrunerConfig(name="hyperband")
    epochs = [
        trained(config, run, [hits] * 9) for run, hits in zip(sweep(tmp_path, 12), range(190, 70, -10), strict=True)
    ]
    assert epochs[0] == 9 and min(epochs) < 9


def test_a_resumed_run_continues_its_trial(tmp_path: Path) -> None:
    config = PrunerConfig(name="median", startup_runs=1, warmup_fraction=0)
    first, second = sweep(tmp_path, 2)
    Pruner(config, first, 4).should_stop(1, with_f1(100))  # killed here
    resumed = Pruner(config, first, 4)
    for epoch in (1, 2, 3, 4):  # the first again: the kill came before its checkpoint
        assert not resumed.should_stop(epoch, with_f1(100))
    resumed.end(0.5, False)
    assert [t.state.name for t in resumed._study.get_trials()] == ["COMPLETE"]
    assert Pruner(config, second, 4).should_stop(1, with_f1(50))


def test_without_a_sweep_only_a_collapse_ends_a_run(tmp_path: Path) -> None:
    pruner = Pruner(PrunerConfig(name="median", stop_collapsed=True), tmp_path / "run", 5)
    constant = judged(np.tile(RANDOM.normal(size=9), (200, 1)))
    assert not pruner.should_stop(1, with_f1(1)) and pruner.should_stop(2, constant)
    assert not pruner.should_stop(5, constant), "the last epoch is the end anyway"
    pruner.end(0.1, False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stop", [True, False])
def test_the_rule_for_collapsed_runs_is_a_choice(tmp_path: Path, stop: bool) -> None:
    pruner = Pruner(PrunerConfig(stop_collapsed=stop), tmp_path / "run", 5)
    assert pruner.should_stop(1, judged(np.ones((200, 9)))) is stop


@pytest.mark.parametrize("monitor", MONITORS)
def test_runs_are_compared_by_the_monitored_score(tmp_path: Path, monitor: str) -> None:
    """Of a loss, less is better. A worse run ends early, a better one does not."""
    good, bad, better = sweep(tmp_path, 3)
    config = PrunerConfig(name="median", max_lag=0.25)
    assert trained(config, good, [150] * 8, monitor) == 8
    assert trained(config, bad, [60] * 8, monitor) < 8
    assert trained(config, better, [190] * 8, monitor) == 8


def test_runs_with_other_monitors_are_not_compared(tmp_path: Path) -> None:
    first, second = sweep(tmp_path, 2)
    config = PrunerConfig(name="median", max_lag=0.25)
    assert trained(config, first, [190] * 8) == 8
    assert trained(config, second, [60] * 8, "accuracy") == 8


def test_a_lag_within_two_standard_errors_of_a_loss_is_allowed(tmp_path: Path) -> None:
    best, near, far = sweep(tmp_path, 3)
    config = PrunerConfig(name="median", max_lag=0.0001, warmup_fraction=1)
    losses = {hits: with_f1(hits).losses for hits in (150, 145, 120)}
    error = 2 * losses[145].std() / 200**0.5
    assert losses[145].mean() - losses[150].mean() < error < losses[120].mean() - losses[150].mean()
    assert trained(config, best, [150] * 4, "loss") == 4
    assert trained(config, near, [145] * 4, "loss") == 4
    assert trained(config, far, [120] * 4, "loss") == 2


def test_paired_ends_a_run_only_beyond_what_the_texts_tell(tmp_path: Path) -> None:
    """With 6 runs of 10 epochs each comparison has a level of 0.05 / (5 * 8)."""
    config = PrunerConfig(name="paired", alpha=0.05, max_lag=0.25)
    runs = sweep(tmp_path, 6)
    assert trained(config, runs[0], [150] * 10) == 10, "nothing to be compared with"
    assert trained(config, runs[1], [10, *[50] * 9]) == 2, "the first epoch says nothing"
    assert trained(config, runs[2], [60, *[130] * 9]) == 3, "13 % behind, of which 12 % are allowed"
    assert trained(config, runs[3], [100, 130, 135, 140, 142, *[144] * 5]) == 10, "6 texts tell nothing"
    assert trained(config, runs[4], [100, 130, 135, *[138] * 7]) == 5, "12 texts do, and are 8 %"


@pytest.mark.parametrize("monitor", ["accuracy", "mcc", "loss"])
def test_paired_compares_by_the_monitor(tmp_path: Path, monitor: str) -> None:
    config = PrunerConfig(name="paired", alpha=0.05, max_lag=0.25)
    runs = sweep(tmp_path, 3)
    assert trained(config, runs[0], [150] * 6, monitor) == 6
    assert trained(config, runs[1], [40] * 6, monitor) == 2
    assert trained(config, runs[2], [151] * 6, monitor) == 6


def test_what_paired_needs_of_each_epoch_survives_the_journal() -> None:
    val = with_f1(150)
    for name, expected in (("f1", val.predictions), ("loss", val.losses.astype(np.float32))):
        assert (read_outputs(outputs(val, MONITORS[name]), MONITORS[name]) == expected).all()


def test_paired_needs_a_level() -> None:
    for wrong in ({"name": "paired"}, {"name": "median", "alpha": 0.05}, {"name": "paired", "alpha": 0.05}):
        with pytest.raises(ValueError, match=r"pruner\.(alpha|max_lag) must be set"):
            PrunerConfig(**wrong)
