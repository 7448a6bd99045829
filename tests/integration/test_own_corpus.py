"""Tables as people have them, through the real commands."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import TINY, Command
from tests.jsonl import read_jsonl

ONE_EPOCH = [
    *TINY,
    "trainer.max_epochs=1",
    "data=table",
    "logger=none",
    "data.batch_size=8",
    "optimizer.warmup_epochs=0",
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def topics(n: int, first: int = 0) -> list[dict[str, Any]]:
    """Sentences with a topic, sorted by topic, in the form of SIB-200."""
    words = {"geography": "川 山 島", "health": "薬 熱 医師", "sports": "試合 得点 選手"}
    draw = random.Random(first)
    return [
        {"index_id": first + i, "category": topic, "text": f"{draw.choice(words[topic].split())}の話{first + i}"}
        for i, topic in enumerate(topic for topic in sorted(words) for _ in range(n))
    ]


def pairs(n: int) -> list[dict[str, Any]]:
    """Sentence pairs with a split, in the form of JSICK."""
    labels = ["entailment", "neutral", "contradiction"]
    return [
        {
            "premise": f"犬{i}が公園を走る。" * 20,
            "hypothesis": f"{['動物が走る', '犬は白い', '犬は眠る'][i % 3]}{i}。",
            "relation": labels[i % 3],
            "part": ["train", "train", "train", "dev", "test"][(i // 3) % 5],
        }
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def runs(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three finished runs: train and test files, pairs with a split column, train and val files."""
    folder = tmp_path_factory.mktemp("own")
    write_rows(folder / "train.csv", topics(10))
    write_rows(folder / "other.csv", topics(3, first=100))
    write_rows(folder / "pairs.csv", pairs(60))
    commands = {
        "test": ["data.train_file=train.csv", "data.test_file=other.csv", "data.text=text", "data.label=category",
                 "data.keep_texts=false", "data.limit=20", "data.label_order=[sports,health,geography]"],
        "pairs": ["data.file=pairs.csv", "data.split=part", "data.label=relation", "data.id=hypothesis",
                  'template.text="前提: {premise}\n仮説: {hypothesis}\n関係: "', "template.name=pair"],
        "val": ["data.train_file=train.csv", "data.val_file=other.csv", "data.text=text", "data.label=category"],
    }  # fmt: skip
    for name, overrides in commands.items():
        done = command("train", *ONE_EPOCH, *overrides, f"hydra.run.dir=runs/{name}", cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / f"{name}.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_train_and_test_files(runs: Path) -> None:
    run = runs / "runs" / "test"
    record, metrics = read(run / "run.json"), read(run / "metrics.json")
    assert {key: record["data"][key] for key in ("n_train", "n_val", "n_test")} == {
        "n_train": 20, "n_val": 3, "n_test": 9,
    }  # fmt: skip
    assert record["data"]["labels"] == ["sports", "health", "geography"] == list(metrics["per_class"])
    assert read(run / "model" / "labels.json") == ["sports", "health", "geography"]
    lines = read_jsonl(run / "predictions" / "test.jsonl")
    assert [line["id"] for line in lines] == [f"test-{i + 1}" for i in range(9)]
    assert all(line.keys() == {"id", "label", "prediction", "probabilities"} for line in lines), "no texts"


def test_pairs_with_a_split_column(runs: Path, command: Command) -> None:
    run = runs / "runs" / "pairs"
    rows = {row["hypothesis"]: row for row in pairs(60)}
    for split, part in (("val", "dev"), ("test", "test")):
        lines = read_jsonl(run / "predictions" / f"{split}.jsonl")
        assert {line["id"] for line in lines} == {key for key, row in rows.items() if row["part"] == part}
        for line in lines:
            row = rows[line["id"]]
            assert line["columns"] == {name: row[name] for name in ("premise", "hypothesis")}
            assert line["label"] == row["relation"] and "title" not in line
    inputs = [{**row, "hypothesis": "" if i == 1 else row["hypothesis"]} for i, row in enumerate(pairs(12)[9:])]
    lines = [f"{row['premise']};{row['hypothesis']}\n" for row in inputs]
    (runs / "new.csv").write_text("premise;hypothesis\n" + "".join(lines), encoding="cp932")
    table = ("input=new.csv", "data.encoding=cp932", "data.separator=;")  # which the table of the training had not
    done = command("predict", f"run={run}", *table, "output=out.jsonl", "probabilities=true", cwd=runs)
    assert done.returncode == 0, done.stderr
    known = {line["id"]: line["probabilities"] for line in read_jsonl(run / "predictions" / "val.jsonl")}
    found = read_jsonl(runs / "out.jsonl")
    assert len(found) == 3 and set(found[0]["probabilities"]) == {"contradiction", "entailment", "neutral"}
    for row, line in zip(inputs, found, strict=True):
        if row["hypothesis"]:
            assert line["probabilities"] == pytest.approx(known[row["hypothesis"]], abs=1e-5), "rendered as in training"


def test_train_and_val_files(runs: Path, command: Command) -> None:
    metrics = read(runs / "runs" / "val" / "metrics.json")
    assert metrics["test"] is None and metrics["val"]["n"] == 9 and metrics["status"] == "finished"
    assert not (runs / "runs" / "val" / "predictions" / "test.jsonl").exists()
    said = (runs / "val.txt").read_text(encoding="utf-8")
    assert "test  none: the data has no test split" in said and "there is no test split: the scores are" in said
    done = command("status", "dir=runs/val", "verify=true", cwd=runs)
    assert done.returncode == 0 and "(no test split)" in done.stdout and "no damage found" in done.stdout
    done = command("report", "dir=runs/val", cwd=runs)
    assert done.returncode == 0, done.stderr
    assert "The data has no test split: all scores are those of val" in done.stdout
    page = (runs / "runs" / "val" / "report" / "report.html").read_text(encoding="utf-8")
    assert "The data has no test split" in page and ">NaN<" not in page
    done = command("train", *ONE_EPOCH, "data.train_file=train.csv", "data.val_file=other.csv", "data.text=text",
                   "data.label=category", "hydra.run.dir=runs/val", cwd=runs)  # fmt: skip
    assert done.returncode == 0 and "already finished" in done.stdout + done.stderr


def test_a_report_of_pairs(runs: Path, command: Command) -> None:
    done = command("report", "dir=runs/pairs", cwd=runs)
    assert done.returncode == 0, done.stderr
    assert "TF-IDF baseline: test F1" in done.stdout, "fitted on the columns of the pairs"
