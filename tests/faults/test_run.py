"""One run, broken at its file operations and repeated: it ends as if nothing had happened."""

import re
import signal
from pathlib import Path

from .disk import CUTS
from .harness import ALL, Experiment, Tally


def test_kills(single_run: Experiment, tally: Tally) -> None:
    single_run.check_states(tally, single_run.chosen_cases(["kill"]))
    tally.check()


def test_power_cuts(single_run: Experiment, tally: Tally) -> None:
    single_run.check_states(tally, single_run.chosen_cases(CUTS))
    tally.check()


def test_disk_errors(single_run: Experiment, tally: Tally) -> None:
    single_run.check_errors(tally, single_run.chosen_errors())
    tally.check()


def test_a_kill_leaves_what_was_recorded(single_run: Experiment, tmp_path: Path) -> None:
    """The states of the other tests are copies; here the process is killed indeed."""
    for number in single_run.sample[:: 1 if ALL else 4]:
        killed, copy = tmp_path / str(number), tmp_path / f"{number}-copy"
        done = single_run.interrupted_at(number, killed)
        assert done.returncode == -signal.SIGKILL
        case = next(case for case in single_run.cases if (case.number, case.fault) == (number, "kill"))
        single_run.restore(case, copy)
        assert names(killed / "run") == names(copy)


def names(folder: Path) -> list[str]:
    """All files and folders, without the random part of temporary names and the digest in those of checkpoints."""
    paths = [path.relative_to(folder) for path in folder.rglob("*")]
    shown = (str(path.with_name("temporary") if path.suffix == ".tmp" else path) for path in paths)
    return sorted(re.sub(r"-[0-9a-f]{64}\.", "-DIGEST.", name) for name in shown)
