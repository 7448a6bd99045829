"""``llm_cls.evaluate``: a finished run on other labelled texts."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score, f1_score

from llm_cls.data.load import load_corpus
from llm_cls.files import sha256_file
from llm_cls.runs.config_file import read_config
from tests.jsonl import read_jsonl

from .conftest import Command


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("wandb")))


@pytest.fixture(scope="module")
def rows(finished_run: Path) -> list[dict[str, str]]:
    texts = load_corpus(read_config(finished_run / "config.yaml").data).splits["test"]
    return [{"id": t.id, "headline": t.title, "body": t.body, "kind": t.label} for t in texts]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_the_test_texts_give_the_test_scores_of_the_run(
    run: Path, rows: list[dict[str, str]], command: Command, tmp_path: Path
) -> None:
    """And rows that cannot be scored change none of them, but are counted and listed."""
    others = [
        rows[0] | {"id": "a", "kind": "unknown"},
        rows[1] | {"id": "b", "kind": ""},
        rows[2] | {"id": "c", "body": " "},
    ]
    write(tmp_path / "same.v1.csv", rows)
    write(tmp_path / "more.csv", [others[0], *rows, *others[1:]])
    names = ("data.title=headline", "data.label=kind")
    done = command("evaluate", "run=run", "data.file=same.v1.csv,more.csv", *names, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    metrics = json.loads((run / "metrics.json").read_text())
    for name, n in (("same.v1.csv", len(rows)), ("more.csv", len(rows) + 3)):
        digest = sha256_file(tmp_path / name)
        folder = run / "evaluations" / f"{name.partition('.')[0]}-{digest[:8]}"
        found = json.loads((folder / "evaluation.json").read_text())
        assert {key: value for key, value in found["scores"].items() if key != "loss"} == {
            key: value for key, value in metrics["test"].items() if key != "loss"
        }
        assert found["scores"]["loss"] == pytest.approx(metrics["test"]["loss"], abs=1e-5)
        assert found["per_class"] == metrics["per_class"] and found["absent_labels"] == ["smax"]
        assert found["run_id"] == json.loads((run / "run.json").read_text())["run_id"]
        assert found["file"] == {"name": name, "sha256": digest, "bytes": (tmp_path / name).stat().st_size}
        assert found["rows"] == n and found["predictions_sha256"] == sha256_file(folder / "predictions.jsonl")
        lines = {line["id"]: line for line in read_jsonl(folder / "predictions.jsonl")}
        assert len(lines) == n
        for before in read_jsonl(run / "predictions" / "test.jsonl"):
            line = lines[before["id"]]
            assert (line["label"], line["prediction"]) == (before["label"], before["prediction"])
            assert line["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)
            assert line["scored"] and line["error"] is None
        assert f"{name}: F1 " in done.stdout and f"({len(rows)} texts; " in done.stdout
        assert f"run/evaluations/{folder.name}\n" in done.stdout
    assert found["unknown_labels"] == {"": 1, "unknown": 1} and found["without_text"] == {"body is empty": 1}
    assert lines["a"]["prediction"] and not lines["a"]["scored"] and lines["c"]["error"] == "body is empty"
    assert "  Not scored: 2 of 15 texts have labels unknown to the run: '' 1, 'unknown' 1\n" in done.stdout
    assert "  Not scored: 1 of 15 rows have no text: body is empty 1\n" in done.stdout
    verified = command("status", "dir=run", "verify=true", cwd=tmp_path)
    assert verified.returncode == 0 and "no damage found" in verified.stdout


def test_scores_are_those_of_scikit_learn(
    run: Path, rows: list[dict[str, str]], command: Command, tmp_path: Path
) -> None:
    """On wrong labels, one of which never occurs; and an evaluation replaces an earlier one."""
    kinds = json.loads((run / "run.json").read_text())["data"]["labels"]
    (tmp_path / "new.jsonl").write_text(
        "".join(json.dumps(row | {"kind": kinds[i % 2]}) + "\n" for i, row in enumerate(rows)), encoding="utf-16"
    )
    line = ("data.file=new.jsonl", "data.encoding=utf-16", "data.title=headline", "data.label=kind", "output=out/here")
    for _ in range(2):
        done = command("evaluate", "run=run", *line, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert f"Labels without texts, which count as 0 in macro averages: {kinds[2]!r}\n" in done.stdout
    folder = tmp_path / "out" / "here"
    found, lines = json.loads((folder / "evaluation.json").read_text()), read_jsonl(folder / "predictions.jsonl")
    truth, predicted = [line["label"] for line in lines], [line["prediction"] for line in lines]
    macro = f1_score(truth, predicted, labels=kinds, average="macro", zero_division=0)
    assert found["scores"]["f1"] == pytest.approx(macro)
    assert found["scores"]["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["absent_labels"] == [kinds[2]] and not (run / "evaluations").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (
            ["data.file=in.csv"],
            3,
            "in.csv: no text has a label of the run ('movie-enter', 'smax', 'sports-watch'), fou",
        ),
        (["data.file=in.csv", "data.label=kind"], 3, "in.csv has no column 'kind'. It has "),
        (["data.file=in.csv", "data.body=text"], 3, "in.csv has no column 'text'. It has "),
        (["data.file=in.csv", "data.id=number"], 3, "in.csv has no column 'number'. It has "),
        (["data.file=in.csv,none.csv"], 3, "none.csv: the file does not exist"),
        (["data.file=in.csv", "output=full"], 2, "output=full holds mine.txt, which is no evaluation. Give another"),
        (["data.file=in.csv", "output=in.csv"], 2, "output=in.csv is a file. Give a folder"),
        (["data.file=in.csv", "output=in.csv/x"], 4, "in.csv"),
        (["data=in.csv"], 2, "data"),
    ],
)
def test_wrong_arguments(
    run: Path, command: Command, tmp_path: Path, arguments: list[str], code: int, part: str
) -> None:
    write(tmp_path / "in.csv", [{"title": "題", "body": "本文", "label": "x"}])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    done: Any = command("evaluate", "run=run", *arguments, cwd=tmp_path)
    assert done.returncode == code and done.stderr.count("\n") == 1, done.stderr
    assert part in done.stderr
    assert not (run / "evaluations").exists()
