"""One bit of a file changes: a command that reads it reports the damage, or gives what it would have given anyway."""

import json
import random
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm_cls.config.commands import StatusArguments
from tests.conftest import Program

from .harness import ALL, Case, Experiment, Tally, in_parallel, last_line, trained_epochs
from .operations import LOGS

PLACES = 500 if ALL else 4  # for each command
UNPROTECTED = LOGS  # no result is made of a log
TIMES = ("started_at", "finished_at")  # of run.json; any time is as good as another
UNFINISHED = "checkpoints/"  # of a run that is not finished, verify=true protects these

# Digits of which most others are as valid: random bits seldom hit one.
DIGITS = {
    "config.yaml": rb"max_length: \d*(\d)", "metrics.json": rb'"f1": 0\.\d?(\d)', "history.jsonl": rb'loss": \d\.(\d)',
    "run.json": rb'"n_test": \d*(\d)', "predictions/test.jsonl": rb": 0\.\d(\d)",
}  # fmt: skip

COMMANDS = {
    "train": [],
    "predict": ["run=run", "input=texts.csv", "output=labels.csv", "accelerator=cpu"],
    "status": ["dir=run", "verify=true"],
}
needs_verify = pytest.mark.skipif("verify" not in StatusArguments.model_fields, reason="status has no verify")

Files = dict[str, bytes]


@dataclass(frozen=True)
class Flip:
    """A changed bit."""

    file: str
    byte: int
    bit: int

    def __str__(self) -> str:
        """For people."""
        return f"{self.file}, byte {self.byte}, bit {self.bit}"

    def apply(self, content: bytes) -> bytes:
        """The changed content."""
        changed = bytearray(content)
        changed[self.byte] ^= 1 << self.bit
        return bytes(changed)


@dataclass(frozen=True)
class Outcome:
    """What a command did, and what is there afterwards."""

    done: subprocess.CompletedProcess[str]
    files: Files
    labels: bytes

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.done.stdout + self.done.stderr

    def names(self, flip: Flip) -> bool:
        """Whether it ended with a defined error, in one line that names the file, or what differs in ``run.json``."""
        lines = [line for line in self.done.stderr.splitlines() if line.startswith("Error: ")]
        named = [line for line in lines if Path(flip.file).name in line or "of another configuration" in line]
        return self.done.returncode in (2, 3, 4, 5) and len(lines) == len(named) == 1


class Subject:
    """A run directory, and what the commands give for it as long as it is whole."""

    def __init__(self, program: Program, experiment: Experiment, folder: Path, case: Case) -> None:
        self._program, self._experiment, self._folder, self._case = program, experiment, folder, case
        experiment.restore(case, folder / "files")
        self.files = read(folder / "files")
        self._whole: dict[str, Outcome] = {}

    def places(self, seed: int) -> list[Flip]:
        """Random bits: first a file is drawn, then a byte of it. And a digit of each file that has many."""
        draw = random.Random(seed)
        names = sorted(name for name, content in self.files.items() if content)
        drawn = [draw.choice(names) for _ in range(PLACES)]
        digits = {name: list(re.finditer(pattern, self.files.get(name, b""))) for name, pattern in DIGITS.items()}
        return [
            *(Flip(name, draw.choice(found).start(1), 0) for name, found in digits.items() if found),
            *(Flip(name, draw.randrange(len(self.files[name])), draw.randrange(8)) for name in drawn),
        ]

    def outcome(self, command: str, flip: Flip | None = None) -> Outcome:
        """Runs a command on a copy with a changed bit."""
        cwd = self._folder / f"{command}, {flip}".replace("/", "-")
        self._experiment.restore(self._case, cwd / "run")
        if flip is not None:
            (cwd / "run" / flip.file).write_bytes(flip.apply(self.files[flip.file]))
        texts = "".join(f"{i},題{i},{f'映画{i}の試合。' * 10}\n" for i in range(5))  # longer than data.max_length
        (cwd / "texts.csv").write_text(f"id,title,body\n{texts}", encoding="utf-8")
        arguments = self._experiment.arguments if command == "train" else COMMANDS[command]
        done = self._program(f"llm_cls.{command}", *arguments, cwd=cwd)
        labels = (cwd / "labels.csv").read_bytes() if (cwd / "labels.csv").exists() else b""
        outcome = Outcome(done, read(cwd / "run"), labels)
        shutil.rmtree(cwd)
        return outcome

    def whole(self, command: str) -> Outcome:
        """What the command gives without a fault."""
        if command not in self._whole:
            self._whole[command] = self.outcome(command)
        return self._whole[command]

    def check(self, tally: Tally, command: str, flips: list[Flip]) -> None:
        """Runs a command once for each changed bit."""
        tally.counts["flips"] += len(flips)
        assert "Traceback" not in self.whole(command).said, self.whole(command).said

        def one(flip: Flip) -> None:
            found = self.outcome(command, flip)
            if "Traceback" in found.said:
                tally.note("tracebacks", f"{flip}: {last_line(found.done)}")
            elif not found.names(flip) and (fault := self._unnoticed(command, flip, found)):
                tally.note("unnoticed", f"{flip}: {fault}")

        in_parallel(one, flips)
        tally.check()

    def _unnoticed(self, command: str, flip: Flip, found: Outcome) -> str:
        """How the outcome differs from that of the whole run, though nothing was said; empty if it does not."""
        whole = self.whole(command)
        if found.done.returncode != whole.done.returncode:
            return f"exit {found.done.returncode}, in lines without the file: {last_line(found.done)}"
        if command == "train" and self._case.number:  # resumed
            names = sorted(results(whole.files).items() ^ results(found.files).items())
            if names:
                return f"the resumed run differs in {', '.join(sorted({name for name, _ in names}))}"
            more = trained_epochs(found.done) > trained_epochs(whole.done)
            return "trained again without a word" if more and Path(flip.file).name not in found.said else ""
        if command == "status":
            protected = flip.file.startswith(UNFINISHED) if self._case.number else True
            return "exit 0" if protected and Path(flip.file).name not in found.said else ""
        changed = self.files | {flip.file: flip.apply(self.files[flip.file])}
        if found.files not in (changed, self.files, whole.files):
            return "other files were changed"
        return "" if (found.done.stdout, found.labels) == (whole.done.stdout, whole.labels) else "another result"


def read(folder: Path) -> Files:
    """All files but the logs."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.endswith(UNPROTECTED)}


def results(files: Files) -> dict[str, str]:
    """The content of each file, without the times at which it was made and what was measured."""
    found = {}
    for name, content in files.items():
        if name in ("run.json", "metrics.json"):
            found[name] = repr(plain(json.loads(content)))
        elif name == "history.jsonl":
            found[name] = repr([plain(json.loads(line)) for line in content.splitlines()])
        elif "manifest" not in name or name.startswith("model/"):  # one over all files has digests of those times
            found[name] = repr(content)
    return found


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Without times, speed and memory."""
    return {k: v for k, v in values.items() if k not in (*TIMES, "seconds", "tokens_per_second", "peak_memory_gib")}


@pytest.fixture(scope="module")
def finished(program: Program, single_run: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A finished run."""
    return Subject(program, single_run, tmp_path_factory.mktemp("finished"), single_run.end)


@pytest.fixture(scope="module", params=[1, 2], ids=["epoch 1", "epoch 2"])
def interrupted(
    program: Program, single_run: Experiment, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Subject:
    """A run that was killed after an epoch: before the last one, and with nothing left but to write the results."""
    case = next(case for case in single_run.cases if case.epochs == request.param and case.fault == "kill")
    return Subject(program, single_run, tmp_path_factory.mktemp("interrupted"), case)


def test_train_on_a_finished_run(finished: Subject, tally: Tally) -> None:
    finished.check(tally, "train", finished.places(1))


def test_predict(finished: Subject, tally: Tally) -> None:
    finished.check(tally, "predict", finished.places(2))


@needs_verify
def test_verify_a_finished_run(finished: Subject, tally: Tally) -> None:
    assert finished.whole("status").done.returncode == 0, finished.whole("status").said
    finished.check(tally, "status", finished.places(3))


def test_resume(interrupted: Subject, tally: Tally) -> None:
    interrupted.check(tally, "train", interrupted.places(4)[: 5 + PLACES // 2])


def test_predict_before_the_end(interrupted: Subject, tally: Tally) -> None:
    interrupted.check(tally, "predict", interrupted.places(5)[: 5 + PLACES // 8])


@needs_verify
def test_verify_an_interrupted_run(interrupted: Subject, tally: Tally) -> None:
    assert interrupted.whole("status").done.returncode == 0, interrupted.whole("status").said
    interrupted.check(tally, "status", interrupted.places(6)[: 5 + PLACES // 2])
