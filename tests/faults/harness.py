"""Breaks a command at its file operations, repeats it, and says what is not as if nothing had happened."""

import errno
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Program
from tests.faults.disk import write_tree
from tests.faults.operations import LOGS
from tests.jsonl import read_jsonl
from tests.small_model import SMALL_MODEL

ALL = os.environ.get("LLM_CLS_FAULTS") == "all"
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
MEASURED = ("seconds", "tokens_per_second", "peak_memory_gib")

# The smallest run that has all steps: its second epoch is the better one, so that the weights of the first are removed.
TINY = [
    "experiment=quickstart", *SMALL_MODEL, "data.limit=16", "data.max_length=16",
    "data.batch_size=8", "trainer=cpu", "trainer.max_epochs=2", "trainer.progress_bar=false", "optimizer.lr=5e-3",
    "lora.r=2", "sweep.name=faults",
]  # fmt: skip

STEPS = (
    r"rename \S+ -> \S*config.yaml", r"write \S*checkpoints/", r"rename \S+ -> \S*epoch-0002.ckpt",
    r"rename \S+ -> \S*epoch-0002-\w+.ckpt", r"rename \S+ -> \S*history.jsonl", r"rename \S+ -> \S*test.jsonl",
    r"\S+ \S*/adapter_config.json", r"rename \S+ -> \S*model", r"rename \S+ -> \S*run.json",
    r"rename \S+ -> \S*manifest.json", r"rename \S+ -> \S*metrics.json", r"remove \S*epoch-0001-\w+.ckpt",
    r"remove \S*epoch-0002-\w+.ckpt",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A state of the folder that a fault has left.

    Attributes:
        number: The operation that did not happen; 0 after the last one.
        what: The same in words.
        fault: "kill" or one of ``CUTS``.
        epochs: Epochs in the learning curves at that moment, of all runs.
        state: Equal for equal files.
    """

    number: int
    what: str
    fault: str
    epochs: int
    state: str


@dataclass
class Tally:
    """What has happened in a test, for the table at the end."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, kind: str, line: str) -> None:
        """Counts a fault of a kind and keeps its line."""
        self.counts[kind] += 1
        self.faults.append(f"{kind}: {line}")

    def check(self) -> None:
        """Fails the test if there are faults."""
        if self.faults:
            pytest.fail("\n".join([f"{len(self.faults)} faults", *sorted(self.faults)]), pytrace=False)


TALLIES: list[Tally] = []
COLUMNS = (
    "operations",
    "kills",
    "power cuts",
    "disk errors",
    "states",
    "flips",
    "lost",
    "unequal",
    "unnoticed",
    "tracebacks",
    "hangs",
)


def table() -> list[str]:
    """The tallies of this session, a line each."""
    rows = [("", *COLUMNS)] + [(tally.name, *(str(tally.counts[name]) for name in COLUMNS)) for tally in TALLIES]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


class Experiment:
    """A training command, what it gives undisturbed, and what faults make of it.

    Args:
        program: Runs a module in a fork.
        folder: Where to work.
        root: Name of the folder that the command writes, which exists before.
        arguments: The command line.
        steps: Which operations a sample consists of: the last one of each pattern.
    """

    def __init__(
        self, program: Program, folder: Path, root: str, arguments: Sequence[str], steps: Sequence[str] = STEPS
    ) -> None:
        self._program, self._folder, self._root = program, folder, root
        self._steps, self.arguments = steps, list(arguments)
        first = folder / "undisturbed"
        (first / root).mkdir(parents=True)
        done = self._call(first, "record", str(folder / "states"))
        assert done.returncode == 0, done.stderr
        self.expected = self.results(first / root)
        self.trained = trained_epochs(done)
        rows = read_jsonl(folder / "states" / "cases.jsonl")
        self.cases = [Case(**{key: row[key] for key in Case.__dataclass_fields__}) for row in rows]
        self._files = {row["state"]: row["files"] for row in rows if "files" in row}
        self.operations = {case.number: case.what for case in self.cases if case.number}

    @property
    def end(self) -> Case:
        """The state after the whole command."""
        return next(case for case in self.cases if (case.number, case.fault) == (0, "kill"))

    def differences(self, root: Path) -> list[str]:
        """What differs from the undisturbed results: the files that are missing, left over or different."""
        return differences(self.expected, self.results(root))

    def results(self, root: Path) -> dict[str, Any]:
        """All results of each run below ``root``, without what was measured, and the names of the other files."""
        return {run.parent.relative_to(root).as_posix(): results(run.parent) for run in root.rglob("run.json")}

    def _call(self, cwd: Path, what: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._program(
            "tests.faults.victim", what, self._root, *arguments, "--", "llm_cls.train", *self.arguments, cwd=cwd
        )

    def interrupted_at(self, number: int, cwd: Path) -> subprocess.CompletedProcess[str]:
        """The command, killed by itself just before an operation."""
        (cwd / self._root).mkdir(parents=True)
        return self._call(cwd, "kill", str(number))

    def check_states(self, tally: Tally, cases: Sequence[Case]) -> None:
        """Repeats the command on what each of ``cases`` has left; equal states once."""
        states = {case.state: case for case in reversed(cases)}
        tally.counts["operations"] += len({case.number for case in cases if case.number})
        tally.counts["kills"] += sum(case.fault == "kill" for case in cases)
        tally.counts["power cuts"] += sum(case.fault != "kill" for case in cases)
        tally.counts["states"] += len(states)

        def check(case: Case) -> None:
            cwd = self._folder / "repeats" / case.state
            self.restore(case, cwd / self._root)
            allowed = self.trained - case.epochs + (case.fault != "kill")  # a power cut may take the last epoch
            where = "kill" if case.fault == "kill" else f"power cut ({case.fault})"
            self._repeat(tally, cwd, f"{where} before {case.what}", allowed)

        in_parallel(check, list(states.values()))

    def check_errors(self, tally: Tally, pairs: Sequence[tuple[int, int]]) -> None:
        """Runs the command on a disk that fails from an operation on, and repeats it on a whole one.

        Args:
            tally: For what is found.
            pairs: Operations, each with the number of its error.
        """
        tally.counts["operations"] += len({number for number, _ in pairs})
        tally.counts["disk errors"] += len(pairs)

        def check(pair: tuple[int, int]) -> None:
            number, code = pair
            cwd = self._folder / "errors" / f"{number}-{code}"
            (cwd / self._root).mkdir(parents=True)
            done = self._call(cwd, "fail", str(number), str(code))
            where = f"{errno.errorcode[code]} from {self.operations[number]}"
            lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
            if "Traceback" in done.stderr:
                tally.note("tracebacks", f"{where}: {last_line(done)}")
            elif done.returncode == 0:
                pass  # the repeat tells whether all is there
            elif done.returncode not in (4, 6) or (done.returncode == 4 and len(lines) != 1):
                tally.note("lost", f"{where}: exit {done.returncode}, {len(lines)} lines: {last_line(done)}")
            self._repeat(tally, cwd, where, self.trained)

        in_parallel(check, pairs)

    def restore(self, case: Case, root: Path) -> None:
        """Makes the files that ``case`` has left."""
        data = self._folder / "states" / "data"
        names: dict[str, str | None] = self._files[case.state]
        write_tree({name: digest and (data / digest).read_bytes() for name, digest in names.items()}, root)

    def _repeat(self, tally: Tally, cwd: Path, where: str, allowed: int) -> None:
        try:
            done = self._program("llm_cls.train", *self.arguments, cwd=cwd)
        except subprocess.TimeoutExpired:
            tally.note("hangs", where)
            return
        if "Traceback" in done.stdout + done.stderr:
            tally.note("tracebacks", f"{where}: {last_line(done)}")
        elif done.returncode != 0:
            tally.note("lost", f"{where}: the repeat ends with {done.returncode}: {last_line(done)}")
        elif differing := self.differences(cwd / self._root):
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            tally.note("unequal", f"{where}: {', '.join(differing[:3])}{more}")
        elif (trained := trained_epochs(done)) > allowed:
            tally.note("lost", f"{where}: the repeat trains {trained} epochs, {allowed} are enough")
        shutil.rmtree(cwd)

    @cached_property
    def sample(self) -> list[int]:
        """About a dozen operations: one of each kind of step, and those around the end of the run."""
        found = []
        for pattern in self._steps:
            matching = [n for n, what in self.operations.items() if re.search(f" {pattern}", what)]
            assert matching, f"no operation is {pattern}"
            found.append(matching[-1])
        return sorted(found)

    def chosen_cases(self, faults: Sequence[str]) -> list[Case]:
        """All states that these kinds of faults leave; without LLM_CLS_FAULTS=all a sample of them."""
        cases = [case for case in self.cases if case.fault in faults]
        if ALL:
            return cases
        late = [*self.sample[-1:], 0]
        rotated = {(n, faults[i % len(faults)]) for i, n in enumerate(self.sample[::2])}
        return [case for case in cases if case.number in late or (case.number, case.fault) in rotated]

    def chosen_errors(self) -> list[tuple[int, int]]:
        """Each operation with each error; without LLM_CLS_FAULTS=all a sample, with one error each."""
        if ALL:
            return [(number, code) for number in self.operations for code in ERRORS]
        return [(number, ERRORS[i % len(ERRORS)]) for i, number in enumerate(self.sample[::3])]


def in_parallel(function: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Calls it for each item, several at a time where the cores are not shared with other tests."""
    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(function, items))


def results(run: Path) -> dict[str, Any]:
    """The results of one run by file; the names alone of files that tell how and when it was made."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file() and not path.name.endswith(LOGS)):
        name = path.relative_to(run).as_posix()
        if name in ("history.jsonl", "metrics.json"):
            try:
                rows = read_jsonl(path) if path.suffix == ".jsonl" else [json.loads(path.read_text(encoding="utf-8"))]
                found[name] = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
            except (ValueError, AttributeError):
                found[name] = path.read_bytes()
        else:
            found[name] = path.read_bytes() if name.startswith(("model/", "predictions/")) else None
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The files that are missing, left over or different."""
    lines = []
    for run in sorted(expected.keys() | found.keys()):
        before, after = expected.get(run, {}), found.get(run, {})
        for name in sorted(before.keys() | after.keys()):
            if name not in after or name not in before or before[name] != after[name]:
                kind = "lacks" if name not in after else "has" if name not in before else "differs in"
                lines.append(f"{kind} {run}/{name}".replace("./", ""))
    return lines


def trained_epochs(done: subprocess.CompletedProcess[str]) -> int:
    """How many epochs a command has trained."""
    return len(re.findall(r"^Epoch \d+/\d+: ", done.stdout + done.stderr, re.MULTILINE))


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what it said."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else "(nothing)"
