"""A run on the user's own files, and on the same texts as a data set of the hub."""

import gzip
import json
from pathlib import Path

import pytest

from tests.jsonl import read_jsonl

from .conftest import TINY, WORDS, Command

RUN = [*TINY, "logger=none", "trainer.max_epochs=1", "data.text=text", "data.label=label", "data.id=id"]
ROWS = [
    {"id": f"{i:03d}", "text": f"{words.split()[i % 10]}の話 {i}", "label": label}
    for label, words in WORDS.items()
    for i in range(20 * list(WORDS).index(label), 20 * list(WORDS).index(label) + 20)
]


@pytest.fixture(scope="module")
def folder(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run on a compressed file and an Excel file."""
    openpyxl = pytest.importorskip("openpyxl")
    folder = tmp_path_factory.mktemp("own")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[:30])
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    book = openpyxl.Workbook()
    for row in [list(ROWS[0]), *(list(row.values()) for row in ROWS[30:])]:
        book.active.append(row)
    book.save(folder / "b.xlsx")
    files = ["data=table", "data.file=[a.jsonl.gz,b.xlsx]"]
    done = command("train", *RUN, *files, "trainer.progress_bar=true", "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "log.txt").write_bytes((done.stdout + done.stderr).encode())
    return folder


def test_the_texts_of_both_files_are_used(folder: Path) -> None:
    labels = {row["id"]: row["label"] for row in ROWS}
    scored = read_jsonl(folder / "run" / "predictions" / "val.jsonl")
    scored += read_jsonl(folder / "run" / "predictions" / "test.jsonl")
    assert len(scored) == 12 and all(labels[row["id"]] == row["label"] for row in scored)
    data = json.loads((folder / "run" / "run.json").read_text())["data"]
    assert data["name"] == "table" and data["labels"] == sorted(WORDS) and data["n_train"] == 48


def test_a_log_has_no_progress_bar(folder: Path) -> None:
    log = (folder / "log.txt").read_bytes()
    assert b"Epoch 1/1: train loss" in log and b"\r" not in log and b"it/s" not in log


def test_the_same_texts_from_the_hub_are_the_same_run(folder: Path, command: Command) -> None:
    """A data set is known by its texts: where they come from does not count."""
    pytest.importorskip("datasets")
    (folder / "set").mkdir()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (folder / "set" / "train.jsonl").write_text(lines, encoding="utf-8")
    again = command("train", *RUN, "data=hub", "data.dataset=set", "hydra.run.dir=run", cwd=folder)
    assert again.returncode == 0 and "is already finished" in again.stdout, again.stdout + again.stderr


def test_a_fault_is_one_line(folder: Path, command: Command) -> None:
    (folder / "c.csv").write_text('id,text,label\n1,"open,x\n2,b,y\n')
    done = command("train", *RUN, "data=table", "data.file='*.csv'", "hydra.run.dir=new", cwd=folder)
    assert done.returncode == 3
    assert done.stderr == (
        "Error: c.csv could not be read as csv: line 2 opens a double quote that no later line closes. Close it. "
        "Write a double quote within a text twice, or try data.quoting=false\n"
    )
