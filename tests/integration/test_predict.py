"""``llm_cls.predict`` from a run directory alone."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas
import pytest

from llm_cls.data.load import load_corpus
from llm_cls.runs.config_file import read_config
from llm_cls.signals import is_stopped
from tests.fork_server import ForkServer
from tests.jsonl import read_jsonl

from .conftest import TIMEOUT, Command
from .processes import wait_for


@pytest.fixture(scope="module")
def rows(finished_run: Path) -> list[dict[str, str]]:
    texts = load_corpus(read_config(finished_run / "config.yaml").data).splits["test"]
    return [{"id": t.id, "title": t.title, "body": t.body} for t in texts]


def expected(run: Path) -> list[dict[str, Any]]:
    return read_jsonl(run / "predictions" / "test.jsonl")


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_csv_has_the_input_and_the_probabilities_of_the_run(
    finished_run: Path, rows: list[dict[str, str]], command: Command, tmp_path: Path
) -> None:
    write_csv(tmp_path / "in.csv", [row | {"label": "gold"} for row in rows])
    line = ("input=in.csv", "output=new/out.csv", "batch_size=5", "top_k=2", "probabilities=true")
    done = command("predict", f"run={finished_run}", *line, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"Labels of {len(rows)} rows: new/out.csv\n", "")
    with (tmp_path / "new" / "out.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    names = ["id", "title", "body", "label", "predicted_label", "confidence", "label_2", "confidence_2"]
    assert list(found[0]) == [*names, *(f"p({label})" for label in expected(finished_run)[0]["probabilities"]), "error"]
    for row, given, before in zip(found, rows, expected(finished_run), strict=True):  # the input's order
        assert {name: row[name] for name in given} == given and row["label"] == "gold" and row["error"] == ""
        assert row["predicted_label"] == before["prediction"]
        ranked = sorted(before["probabilities"].items(), key=lambda pair: -pair[1])
        assert (row["predicted_label"], row["label_2"]) == (ranked[0][0], ranked[1][0])
        assert float(row["confidence"]) == pytest.approx(ranked[0][1], abs=1e-5)
        assert float(row["confidence_2"]) == pytest.approx(ranked[1][1], abs=1e-5)
        for label, p in before["probabilities"].items():
            assert float(row[f"p({label})"]) == pytest.approx(p, abs=1e-5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.csv"], "nothing beside the output"


def test_rows_without_a_text_keep_their_place_and_values_their_types(
    finished_run: Path, rows: list[dict[str, str]], command: Command, tmp_path: Path
) -> None:
    others = [
        {"body": ""},
        {"body": None},
        {"body": ["本", "文"]},
        {"body": "\ud800"},
        {"body": "本文", "title": {"a": 1}},
    ]
    numbered: list[dict[str, Any]] = [{"n": i, "price": 0.5, "tags": [1, None], "title": "題"} for i in range(7)]
    texts = [{"body": 7.0}, *others[:3], {"body": rows[0]["body"], "title": rows[0]["title"]}, *others[3:]]
    given = [row | text for row, text in zip(numbered, texts, strict=True)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    line = ("input=in.jsonl", "output=out.jsonl", "batch_size=5", "probabilities=true")
    done = command("predict", f"run={finished_run}", *line, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "5 rows could not be labelled; the column error says why\n")
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [{name: row[name] for name in given[0]} for row in found] == given
    reasons = ["body is empty", "body is missing", "body is a list, not a string"]
    last = ["body is not valid Unicode", "title is a dict, not a string"]
    assert [row["error"] for row in found] == [None, *reasons, None, *last]
    assert all((row["label"] is None) == (row["error"] is not None) == (row["probabilities"] is None) for row in found)
    before = expected(finished_run)[0]
    assert found[4]["label"] == before["prediction"]
    assert found[4]["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)


def test_parquet_keeps_its_types(finished_run: Path, command: Command, tmp_path: Path) -> None:
    days = [datetime(2026, 1, day) for day in (1, 2)]
    pandas.DataFrame({"id": days, "n": [1, None], "title": ["題"] * 2, "body": ["本文", ""]}).to_parquet(
        tmp_path / "in.parquet"
    )
    for name in ("out.parquet", "out.jsonl"):
        done = command("predict", f"run={finished_run}", "input=in.parquet", f"output={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    found = pandas.read_parquet(tmp_path / "out.parquet")
    assert list(found["id"]) == days and found["n"].dtype == "float64"
    assert found["error"].isna()[0] and found["error"][1] == "body is empty" and found["confidence"].dtype == "float64"
    lines = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in lines] == [str(day) for day in days]
    assert [row["label"] for row in lines] == [found["label"][0], None]
    assert lines[0]["confidence"] == found["confidence"][0]
    assert {path.name for path in tmp_path.iterdir()} == {"in.parquet", "out.parquet", "out.jsonl"}


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
        (["run={run}", "input=header.csv", "output=new/o.csv"], 3, "header.csv has no rows"),
        (["run={run}", "input=unfinished", "output=o.csv"], 3, "unfinished is a folder. Give one file of it"),
        (["run={run}", "input=empty.jsonl", "output=o.csv"], 3, "empty.jsonl: the file is empty"),
        (["run={run}", "input=in.csv", "output=in.csv"], 2, "output=in.csv must not be the input file. Give another"),
        (["run={run}", "input=in.csv", "output=o.csv", "top_k=4"], 2, "top_k must be <= 3, the labels of the run, got"),
        (["run={run}", "input=in.csv", "output=o.csv", "accelerator=gpu"], 2, "accelerator=gpu, but torch sees no GPU"),
        (["run=unfinished", "input=in.csv", "output=o.csv"], 5, "not a finished run"),
        (
            ["run=diverged", "input=in.csv", "output=o.csv"],
            5,
            "diverged before its first epoch ended, so it has no mod",
        ),
    ],
)
def test_wrong_arguments(
    finished_run: Path, command: Command, tmp_path: Path, arguments: list[str], code: int, part: str
) -> None:
    (tmp_path / "in.csv").write_text("title,body\nあ,い\n", encoding="utf-8")
    (tmp_path / "other.csv").write_text("title,text\nあ,い\n", encoding="utf-8")
    (tmp_path / "header.csv").write_text("title,body\n", encoding="utf-8")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "unfinished").mkdir()
    shutil.copytree(finished_run, tmp_path / "diverged", ignore=shutil.ignore_patterns("wandb", "model"))
    metrics = json.loads((finished_run / "metrics.json").read_text())
    scores = dict.fromkeys(("loss", "accuracy", "precision", "recall", "f1"))
    metrics |= {"status": "diverged", "best_epoch": None, "per_class": {}, "val": scores | {"n": 12}}
    metrics["test"] = scores | {"n": 12, "f1_ci95": None}
    (tmp_path / "diverged" / "metrics.json").write_text(json.dumps(metrics))
    before = {path.name for path in tmp_path.iterdir()}
    done = command("predict", *(a.format(run=finished_run) for a in arguments), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert part in done.stderr and done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == before


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
        (["output=out.csv", "body=bdy"], 3, "has no column 'bdy'. Did you mean 'body'?"),
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


@pytest.fixture(scope="module")
def many(rows: list[dict[str, str]], finished_run: Path, command: Command, tmp_path_factory: Any) -> Path:
    """A folder with 112 rows and the labels that an uninterrupted command gives for them."""
    folder: Path = tmp_path_factory.mktemp("many")
    write_csv(folder / "in.csv", [rows[i % len(rows)] | {"id": str(i)} for i in range(112)])
    done = command("predict", f"run={finished_run}", "input=in.csv", "output=whole.csv", "batch_size=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def interrupted(
    many: Path, finished_run: Path, server: ForkServer, environment: dict[str, str], tmp_path_factory: Any
) -> Path:
    """The same with what a command leaves that was killed while it wrote out.csv."""
    folder = Path(shutil.copytree(many, tmp_path_factory.mktemp("interrupted") / "work"))
    process = server.start("llm_cls.predict", labelling(finished_run), folder, environment)
    wait_for(folder / "out.csv.journal", process)
    process.kill()
    process.wait(TIMEOUT)
    assert not (folder / "out.csv").exists(), "too fast"
    return folder


def labelling(run: Path) -> list[str]:
    return [f"run={run}", "input=in.csv", "output=out.csv", "batch_size=1"]


class TestInterruption:
    """Of one command with 112 rows in 7 chunks."""

    @pytest.fixture
    def folder(self, many: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(many, tmp_path / "work"))

    @pytest.fixture
    def killed(self, interrupted: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(interrupted, tmp_path / "killed"))

    def test_the_next_call_continues(self, killed: Path, finished_run: Path, command: Command) -> None:
        folder = killed
        with (folder / "out.csv.partial").open("ab") as file:
            file.write(b"half a li")
        with (folder / "out.csv.journal").open("ab") as file:
            file.write(b'{"rows": 40')
        done = command("predict", *labelling(finished_run), cwd=folder)
        assert done.returncode == 0 and done.stderr.startswith("Continuing out.csv after row "), done.stderr
        assert done.stdout == "Labels of 112 rows: out.csv\n"
        assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
        assert {path.name for path in folder.iterdir()} == {"in.csv", "out.csv", "whole.csv"}

    def test_another_input_is_written_afresh(
        self, killed: Path, finished_run: Path, command: Command, rows: list[dict[str, str]]
    ) -> None:
        folder = killed
        write_csv(folder / "in.csv", rows[:5])
        done = command("predict", *labelling(finished_run), cwd=folder)
        said = "out.csv is written afresh: its beginning, by an earlier call, is of another input\n"
        assert (done.returncode, done.stderr) == (0, said)
        assert len(pandas.read_csv(folder / "out.csv")) == 5

    def test_a_signal_says_how_to_continue(
        self, folder: Path, finished_run: Path, server: ForkServer, environment: dict[str, str], command: Command
    ) -> None:
        line = labelling(finished_run)
        process = server.start("llm_cls.predict", line, folder, environment)
        wait_for(folder / "out.csv.journal", process)
        process.send_signal(signal.SIGTERM)
        code, (_, stderr) = process.wait(TIMEOUT), process.communicate()
        assert code == 75 and stderr.count("\n") == 1
        said = re.search(r"Interrupted by SIGTERM. The same command continues after row (\d+)", stderr)
        assert said is not None
        done = command("predict", *line, cwd=folder)
        assert (done.returncode, done.stderr) == (0, f"Continuing out.csv after row {said.group(1)}\n")
        assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()

    @pytest.mark.parametrize(
        "module",
        [
            ("tests.integration.forks", "llm_cls.predict"),
            pytest.param(("llm_cls.predict",), marks=pytest.mark.slow),  # each process imports torch
        ],
    )
    def test_several_processes_give_the_same_and_a_second_command_is_refused(
        self, folder: Path, finished_run: Path, server: ForkServer, environment: dict[str, str], command: Command,
        module: tuple[str, ...],
    ) -> None:  # fmt: skip
        name, *arguments = (*module, *labelling(finished_run), "devices=2")
        process = server.start(name, arguments, folder, environment)
        wait_for(folder / "out.csv.partial", process)
        process.send_signal(signal.SIGSTOP)
        while process.poll() is None and not is_stopped(process.pid):
            time.sleep(0.005)
        second = command("predict", *labelling(finished_run), cwd=folder)
        assert second.returncode == 4 and second.stderr.count("\n") == 1
        assert (
            f"output=out.csv is being written by another process (pid {process.pid}, which is stopped)" in second.stderr
        )
        process.send_signal(signal.SIGCONT)
        assert process.wait(TIMEOUT) == 0, process.communicate()
        assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def shell(line: str, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    variables = environment | {"PREDICT": f"{sys.executable} -m llm_cls.predict"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )


def test_standard_streams(
    finished_run: Path, rows: list[dict[str, str]], server: ForkServer, environment: dict[str, str], tmp_path: Path
) -> None:
    """``head`` ends the command, which says nothing of it; a progress bar is not shown in a pipe."""
    given = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows * 20)
    (tmp_path / "in.jsonl").write_text(given, encoding="utf-8")
    for name in ("in", "out"):
        os.mkfifo(tmp_path / name)
    line = (f"run={finished_run}", "input=-", "output=-", "format=jsonl", "batch_size=1")
    process = server.start(
        "llm_cls.predict", line, tmp_path, environment, stdin=str(tmp_path / "in"), stdout=tmp_path / "out"
    )
    done = shell("cat in.jsonl >in & head -n 3 <out", tmp_path, environment)
    assert (process.wait(TIMEOUT), process.communicate()[1], done.stderr) == (0, "", "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [{name: row[name] for name in rows[0]} for row in found] == rows[:3]
    assert [row["label"] for row in found] == [row["prediction"] for row in expected(finished_run)[:3]]


@pytest.mark.parametrize(
    ("redirection", "part"),
    [("<&-", "input=- needs standard input, which is closed"), (">&-", "output=- needs standard output, which is clo")],
)
def test_closed_standard_streams(redirection: str, part: str, environment: dict[str, str], tmp_path: Path) -> None:
    done = shell(f"$PREDICT run=run input=- output=- format=csv {redirection}", tmp_path, environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and part in done.stderr
