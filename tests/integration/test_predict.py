"""``llm_cls.predict`` from a run directory alone."""

import csv
import json
import shutil
from datetime import datetime
from pathlib import Path

import pandas
import pytest

from llm_cls.data.load import load_corpus
from llm_cls.runs.config_file import read_config
from tests.jsonl import read_jsonl

from .conftest import Command


@pytest.fixture(scope="module")
def rows(finished_run: Path) -> list[dict[str, str]]:
    texts = load_corpus(read_config(finished_run / "config.yaml").data).splits["test"]
    return [{"id": t.id, "title": t.title, "body": t.body} for t in texts]


def expected(run: Path) -> list[dict]:
    return read_jsonl(run / "predictions" / "test.jsonl")


def test_csv_and_jsonl_match_the_probabilities_of_the_run(
    finished_run: Path, rows: list[dict[str, str]], command: Command, tmp_path: Path
) -> None:
    with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "title", "body"])
        writer.writeheader()
        writer.writerows(rows)
    done = command("predict", f"run={finished_run}", "input=in.csv", "output=out.csv", "batch_size=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row, before in zip(found, expected(finished_run), strict=True):  # the input's order
        assert (row["id"], row["prediction"]) == (before["id"], before["prediction"])
        for label, p in before["probabilities"].items():
            assert float(row[f"p({label})"]) == pytest.approx(p, abs=1e-5)


def test_jsonl_in_and_out(finished_run: Path, rows: list[dict[str, str]], command: Command, tmp_path: Path) -> None:
    lines = [json.dumps({"title": r["title"], "body": r["body"]}, ensure_ascii=False) for r in reversed(rows)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = command("predict", f"run={finished_run}", "input=in.jsonl", "output=out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == [str(i + 1) for i in range(len(rows))]
    for row, before in zip(reversed(found), expected(finished_run), strict=True):
        assert row["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)


@pytest.mark.parametrize("name", ["model/head.safetensors", "model/manifest.json", "config.yaml", "metrics.json"])
def test_damaged_file_is_refused(finished_run: Path, command: Command, tmp_path: Path, name: str) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    file = tmp_path / "run" / name
    content = bytearray(file.read_bytes())
    if name.startswith("model/"):
        content[len(content) // 2] ^= 0x10
    else:
        del content[len(content) // 2 :]
    file.write_bytes(content)
    (tmp_path / "in.csv").write_text("title,body\nあ,い\n", encoding="utf-8")
    done = command("predict", "run=run", "input=in.csv", "output=out.csv", cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out.csv").exists()
    assert f"run/{name}" in done.stderr or (name == "model/manifest.json" and "run/model" in done.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["input=in.csv", "output=o.csv"], 2, "run is missing"),
        (["run=nowhere", "input=in.csv", "output=new/newer/o.csv"], 2, "nowhere"),
        (["run={run}", "input=none.csv", "output=new/o.csv"], 3, "none.csv"),
        (["run={run}", "input=in.csv", "output=o.xlsx"], 2, "o.xlsx"),
        (["run={run}", "imput=in.csv", "input=in.csv", "output=o.csv"], 2, "Did you mean 'input'"),
        (["run={run}", "input=other.csv", "output=o.csv"], 3, "no column 'body'"),
        (["run=unfinished", "input=in.csv", "output=o.csv"], 5, "not a finished run"),
    ],
)
def test_wrong_arguments(
    finished_run: Path, command: Command, tmp_path: Path, arguments: list[str], code: int, part: str
) -> None:
    (tmp_path / "in.csv").write_text("title,body\nあ,い\n", encoding="utf-8")
    (tmp_path / "other.csv").write_text("title,text\nあ,い\n", encoding="utf-8")
    (tmp_path / "unfinished").mkdir()
    done = command("predict", *(a.format(run=finished_run) for a in arguments), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert part in done.stderr and done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "other.csv", "unfinished"}


def test_arguments_need_no_quoting(finished_run: Path, command: Command, tmp_path: Path) -> None:
    """No value is YAML: a file may have any name."""
    (tmp_path / "[a]: b.csv").write_text("id,title,body\n7,題,本文\n", encoding="utf-8")
    done = command("predict", f"run={finished_run}", "input=[a]: b.csv", "output={x=1}.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "{x=1}.csv").read_text(encoding="utf-8").splitlines()[1].startswith("7,")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["output=file/out.csv"], 4, "file: File exists. Check the path: a file is where a folder"),
        (["output=folder.csv"], 2, "is a folder"),
        (["output=out.csv", "id=idd"], 3, "has no column 'idd'. Did you mean 'id'?"),
    ],
)
def test_faults_are_found_before_any_text_is_labelled(
    finished_run: Path, command: Command, tmp_path: Path, arguments: list[str], code: int, part: str
) -> None:
    (tmp_path / "in.csv").write_text("id,title,body\n7,題,本文\n", encoding="utf-8")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    done = command("predict", f"run={finished_run}", "input=in.csv", *arguments, cwd=tmp_path)
    assert done.returncode == code and done.stderr.count("\n") == 1, done.stderr
    assert part in done.stderr and "Predicting" not in done.stderr


def test_ids_of_any_type(finished_run: Path, command: Command, tmp_path: Path) -> None:
    days = [datetime(2026, 1, day) for day in (1, 2)]
    pandas.DataFrame({"id": days, "title": ["題"] * 2, "body": ["本文"] * 2}).to_parquet(tmp_path / "in.parquet")
    done = command("predict", f"run={finished_run}", "input=in.parquet", "output=out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == [str(day) for day in days]
