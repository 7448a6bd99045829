"""A sweep of two runs, broken at its file operations and repeated."""

import pytest

from tests.conftest import Program

from .disk import CUTS
from .harness import ALL, TINY, Experiment, Tally

GRID = ["--multirun", "seed=1,2", "hydra.sweep.dir=sweep"]
STEPS = (  # of the second run, and of the plan
    r"rename \S+ -> sweep.jsonl", r"rename \S+ -> multirun.yaml", r"rename \S+ -> \S*\.ckpt",
    r"\S+ \S*/adapter_config.json", r"rename \S+ -> \S*metrics.json", r"remove \S*\.ckpt",
)  # fmt: skip


@pytest.fixture(scope="module")
def sweep(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two runs of two epochs."""
    return Experiment(program, tmp_path_factory.mktemp("two"), "sweep", [*TINY, *GRID], STEPS)


def test_kills(sweep: Experiment, tally: Tally) -> None:
    sweep.check_states(tally, sweep.chosen_cases(["kill"]))
    tally.check()


def test_power_cuts(sweep: Experiment, tally: Tally) -> None:
    sweep.check_states(tally, sweep.chosen_cases(CUTS))
    tally.check()


def test_disk_errors(sweep: Experiment, tally: Tally) -> None:
    pairs = sweep.chosen_errors()
    # All three errors at each operation would take hours: they take turns.
    sweep.check_errors(tally, [pair for i, pair in enumerate(pairs) if i % 3 == i // 3 % 3] if ALL else pairs[::2])
    tally.check()
