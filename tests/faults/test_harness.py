"""The harness itself: it sees what happens, and loses what a disk may lose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .disk import Disk, write_tree
from .harness import Experiment


def sync(path: Path, disk: Disk) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    disk.synced(descriptor)
    os.close(descriptor)


def test_what_a_power_cut_takes(tmp_path: Path) -> None:
    write_tree({"old": b"old", "folder/kept": b"kept"}, tmp_path)
    disk = Disk(tmp_path)
    (tmp_path / "new").write_bytes(b"1234")
    (tmp_path / "old").unlink()
    (tmp_path / "folder" / "kept").rename(tmp_path / "folder" / "moved")
    disk.scan()
    now = {"new": b"1234", "folder": None, "folder/moved": b"kept"}
    assert disk.now() == now
    assert disk.after("empty") == now | {"new": b""} and disk.after("half") == now | {"new": b"12"}
    before = {"old": b"old", "folder": None, "folder/kept": b"kept"}
    assert disk.after("names") == before
    assert disk.after("leaves") == {"new": b"", "folder": None, "folder/kept": b"kept"}
    assert disk.after("branches") == {"old": b"old", "folder": None, "folder/moved": b"kept"}
    sync(tmp_path / "new", disk)
    assert disk.after("half") == now and disk.after("names") == before, "its data are safe, its name is not"
    sync(tmp_path, disk)
    assert disk.after("names") == {"new": b"1234", "folder": None, "folder/kept": b"kept"}
    with (tmp_path / "new").open("ab") as file:
        file.write(b"5")
    disk.scan()
    assert disk.after("empty")["new"] == b"1234", "what was appended is lost, what was safe is not"
    write_tree({"new": b"other"}, tmp_path)
    disk.scan()
    assert disk.after("empty")["new"] == b"", "the whole file is written anew"


PROGRAM = """
import os, pathlib, shutil, sys, tempfile
from tests.faults.operations import Operations

class Listener:
    def before(self, operation): print(operation)
    def synced(self, descriptor): print("synced")

root = pathlib.Path.cwd()
Operations(root, Listener())
pathlib.Path("../outside").write_text("not seen")
with open("a", "w") as file:
    file.write("x")
    file.flush()
    os.fsync(file.fileno())
handle, name = tempfile.mkstemp(dir=root, prefix="", suffix="")
os.write(handle, b"y")
os.close(handle)
os.replace(name, "b")
os.link("b", "c")
os.truncate("c", 0)
pathlib.Path("d/e").mkdir(parents=True)
shutil.copy("a", "d/e/f")
with open("train.log", "w") as log: log.write("a log")
with open("many", "wb", buffering=0) as file:
    for _ in range(9): file.write(b"z")
os.unlink("a")
shutil.rmtree("d")
"""


def test_every_operation_is_seen(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    line = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [row.split(" ") for row in done.stdout.splitlines() if row != "synced" and not row.startswith("0 ")]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    found = [" ".join(row[1:]) for row in rows]
    name = found[3].removeprefix("open ")
    assert found[:11] == [
        "open a", "write a", "fsync a", f"open {name}", f"write {name}", f"rename {name} -> b", "link b -> c",
        "truncate c", "mkdir d/e", "mkdir d", "mkdir d/e",
    ]  # fmt: skip
    copied = found.index("open d/e/f")
    assert found[copied : copied + 2] == ["open d/e/f", "write d/e/f"]
    assert found[-9:] == [
        "open many", "write many", "write many", "write many", "write many", "remove a", "remove d/e/f", "rmdir d/e",
        "rmdir d",
    ]  # fmt: skip
    assert "synced" in done.stdout and "open train.log" in done.stdout


def test_no_writer_of_a_run_goes_unseen(single_run: Experiment) -> None:
    """Each file is opened at least to be flushed, also what is written in Rust."""
    seen = {part for what in single_run.operations.values() for part in what.split(" ")[2:]}
    written = {name for run in single_run.expected.values() for name in run}
    assert not {name for name in written - seen if not any(Path(name).name == Path(other).name for other in seen)}


@pytest.mark.parametrize(
    ("name", "old", "new"), [("history.jsonl", '"lr": 0.0', '"lr": 0.1'), ("model/labels.json", "d", "b")]
)
def test_a_different_result_is_noticed(single_run: Experiment, tmp_path: Path, name: str, old: str, new: str) -> None:
    single_run.restore(single_run.end, tmp_path)
    assert single_run.differences(tmp_path) == []
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    (tmp_path / "left.tmp").touch()
    assert set(single_run.differences(tmp_path)) == {f"differs in {name}", "has left.tmp"}
