"""The output of predict, broken at each file operation and continued: it is that of an uninterrupted command."""

import errno
from pathlib import Path

import pytest

from tests.conftest import Program
from tests.jsonl import read_jsonl

from .disk import CUTS, write_tree
from .partial_output import PARTS, write


@pytest.fixture(scope="module")
def states(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What kills and power cuts leave, as ``victim`` records it."""
    folder = tmp_path_factory.mktemp("partial")
    (folder / "work").mkdir()
    line = ("record", "work", "states", "--", "tests.faults.partial_output", "work")
    done = program("tests.faults.victim", *line, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "states"


def check(folder: Path, least: int) -> None:
    """Continues, and compares the result."""
    assert write(folder) >= least
    assert (folder / "o.csv").read_bytes() == b"".join(PARTS)
    assert [path.name for path in folder.iterdir() if path.suffix != ".tmp"] == ["o.csv"]


def test_kills_and_power_cuts(states: Path, tmp_path: Path) -> None:
    cases = read_jsonl(states / "cases.jsonl")
    files = {case["state"]: case["files"] for case in cases if "files" in case}
    assert {case["fault"] for case in cases} == {"kill", *CUTS} and len(files) > 20
    continued = set()
    for state, names in files.items():
        tree = {name: None if d is None else (states / "data" / d).read_bytes() for name, d in names.items()}
        write_tree(tree, tmp_path / state)
        complete = (tree.get("o.csv.journal") or b"\n").count(b"\n") - 1  # its first line names the origin
        least = min(complete, len(PARTS)) if tree.get("o.csv.partial") else 0
        check(tmp_path / state, least)
        continued.add(least)
    assert continued == set(range(len(PARTS) + 1)), "after each part"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_disk_errors(program: Program, states: Path, tmp_path: Path, code: int) -> None:
    numbers = sorted({case["number"] for case in read_jsonl(states / "cases.jsonl")} - {0})
    for number in numbers[: -len(numbers) // 3 : len(numbers) // 3]:  # the last ones free space
        folder = tmp_path / str(number)
        folder.mkdir()
        line = ("fail", folder.name, str(number), str(code), "--", "tests.faults.partial_output", folder.name)
        done = program("tests.faults.victim", *line, cwd=tmp_path)
        assert done.returncode == 4 and done.stderr.count("\n") == 1, done.stderr
        assert "o.csv" in done.stderr or folder.name in done.stderr
        check(folder, 0)
