"""``llm_cls.calibrate`` on runs without training, and what predict, evaluate and Python do with a calibration."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import llm_cls
from llm_cls.data.load import load_corpus
from llm_cls.files import sha256_file, sha256_json
from llm_cls.metrics.evaluation import log_softmax
from llm_cls.runs.calibration import CalibrationRecord, write_calibration
from llm_cls.runs.config_file import read_config
from tests.jsonl import read_jsonl
from tests.unit.reporting.calibrated_runs import NAMES, calibrated_run, draw

from .conftest import WORDS, Command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is overconfident, made without training."""
    splits = {"val": draw(600, 2.0, 1), "test": draw(600, 2.0, 2)}
    return calibrated_run(tmp_path_factory.mktemp("made") / "run", splits)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_calibration_is_stored_in_the_run(run: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "costs.yaml").write_text("a: {b: 5, unsure: 0.3}\nb: {unsure: 0.3}\n")
    keys = ("target_accuracy=0.8", "alpha=0.1", "cost=costs.yaml", "oos=d", "none_label=unsure")
    done = command("calibrate", "run=run", *keys, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((run / "calibration.json").read_text())
    assert found["method"] == "temperature" and found["temperature"] == pytest.approx(2, rel=0.15)
    assert found["labels"] == list(NAMES) and found["biases"] == [0.0] * 4
    assert found["predictions"] == {s: sha256_file(run / "predictions" / f"{s}.jsonl") for s in ("val", "test")}
    assert found["digest"] == sha256_json({key: value for key, value in found.items() if key != "digest"})
    for split in ("val", "test"):
        before, after = found["scores"][split]["before"], found["scores"][split]["after"]
        assert after["log_loss"][0] < before["log_loss"][0] and after["ece"][2] < before["ece"][1]
        assert f"{split}, 600 texts" in done.stdout
    policy = found["policy"]
    assert 0 < policy["threshold"] < 1 and policy["val"]["accuracy"] > 0.8
    assert policy["test"]["interval"][1] > 0.8 and "a probability of at least 0.9" in policy["guarantee"]
    assert found["sets"]["val"]["coverage"] == pytest.approx(0.9, abs=0.01)
    assert found["sets"]["test"]["interval"][0] < 0.9 < found["sets"]["test"]["interval"][1]
    assert found["costs"]["decisions"] == [*NAMES, "unsure"] and found["costs"]["matrix"][0] == [0, 5, 1, 1, 0.3]
    assert found["costs"]["matrix"][2] == [1, 1, 0, 1, 1], "what the file leaves out"
    assert found["costs"]["least"]["test"] < found["costs"]["arg_max"]["test"]
    assert found["out_of_scope"]["policy"]["recall"] > found["out_of_scope"]["arg_max"]["recall"]
    for name, columns in (("coverage", "coverage"), ("oos", "recall")):
        with (run / "calibration" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
        values = [float(row[columns]) for row in rows]
        assert values == sorted(values) and values[-1] == 1
        svg = (run / "calibration" / f"{name}.svg").read_text(encoding="utf-8")
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in svg
        assert ">val<" in svg and ">test<" in svg, "the curves are named"
    verified = command("status", "dir=run", "verify=true", cwd=tmp_path)
    assert verified.returncode == 0 and "no damage found" in verified.stdout


def test_a_changed_calibration_is_noticed(run: Path, command: Command, tmp_path: Path) -> None:
    assert command("calibrate", "run=run", cwd=tmp_path).returncode == 0
    path = run / "calibration.json"
    content = json.loads(path.read_text())
    changed: list[tuple[str, str]] = [
        (json.dumps(content | {"temperature": 3.0}), "is damaged: its content does not have its sha256"),
        (
            json.dumps(content | {"temperature": 0}),
            "is damaged: temperature must be greater than or equal to 0.01, got 0",
        ),
        (path.read_text()[:-40], "is damaged: "),
        ("[1]", "is damaged: "),
        (path.read_text().replace("{", '{"x": NaN, ', 1), "is damaged: "),
    ]
    for key, value, part in (
        ("run_id", "x", "belongs to run x, not to "),
        ("predictions", {"val": "0" * 64}, "was fitted on other predictions than predictions/val.jsonl"),
        ("labels", ["b", "a", "c", "d"], "has other labels than run.json"),
    ):
        other = {k: v for k, v in (content | {key: value}).items() if k != "digest"}
        changed.append((json.dumps(other | {"digest": sha256_json(other)}), part))
    for text, part in changed:
        path.write_text(text)
        done = command("status", "dir=run", "verify=true", cwd=tmp_path)
        assert done.returncode == 5 and done.stderr.count("\n") == 1
        assert f"calibration.json {part}" in done.stderr and "Remove it, or run llm_cls.calibrate again" in done.stderr
    assert command("calibrate", "run=run", cwd=tmp_path).returncode == 0, "it replaces a damaged one"
    assert json.loads(path.read_text())["temperature"] == content["temperature"]


def test_a_run_without_test_texts_has_one(run: Path, command: Command, tmp_path: Path) -> None:
    """Schema 1 lets a run have no predictions of test."""
    (run / "predictions" / "test.jsonl").unlink()
    done = command("calibrate", "run=run", "target_accuracy=0.8", "alpha=0.2", "oos=d", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((run / "calibration.json").read_text())
    assert found["policy"]["test"] is None and found["sets"]["test"] is None and list(found["scores"]) == ["val"]


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["run=none"], 2, "run=none is not a folder"),
        (["run=run", "oos=e"], 2, "oos=e is no label of the run. It has 'a', 'b', 'c', 'd'"),
        (["run=run", "none_label=a"], 2, "none_label=a is a label of the run"),
        (["run=run", "target_accuracy=1"], 2, "target_accuracy must be < 1, got '1'"),
        (["run=run", "cost=costs.yaml"], 3, "the decision 'x' is neither a label of the run nor 'none'"),
        (["run=run", "cost=list.yaml"], 3, "cost=list.yaml must be of the form {true: {decision: cost}}"),
        (["run=run", "cost=none.yaml"], 3, "cost=none.yaml could not be read"),
        (["run=run", "method=magic"], 2, "method must be 'auto', 'none'"),
    ],
)
def test_wrong_arguments(
    run: Path, command: Command, tmp_path: Path, arguments: list[str], code: int, part: str
) -> None:
    (tmp_path / "costs.yaml").write_text("a: {x: 1}")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    done = command("calibrate", *arguments, cwd=tmp_path)
    assert done.returncode == code and done.stderr.count("\n") == 1 and part in done.stderr, done.stderr
    assert not (run / "calibration.json").exists()


@pytest.fixture(scope="module")
def trained(finished_run: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with a calibration, beside its test texts.

    All of its few val texts are right, which determines no temperature: it gets one by hand.
    """
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(finished_run, folder / "run", ignore=shutil.ignore_patterns("wandb"))
    (folder / "costs.json").write_text(json.dumps({name: {"unsure": 0.35} for name in WORDS}))
    done = command(
        "calibrate", "run=run", "target_accuracy=0.4", "delta=0.4", "cost=costs.json", "none_label=unsure", cwd=folder
    )
    assert done.returncode == 0 and "every val text is right" in done.stdout, done.stderr
    found = CalibrationRecord.model_validate_json((folder / "run" / "calibration.json").read_bytes())
    assert found.temperature == 1 and found.policy is not None
    policy = found.policy.model_copy(update={"threshold": 0.65})
    changed = {"temperature": 0.8, "biases": [0.2, -0.3, 0.1], "policy": policy}
    write_calibration(folder / "run", found.model_copy(update=changed))
    texts = load_corpus(read_config(finished_run / "config.yaml").data).splits["test"]
    rows = [{"id": t.id, "title": t.title, "body": t.body, "label": t.label} for t in texts]
    rows.append(rows[0] | {"id": "other", "label": "unheard"})
    with (folder / "in.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_the_calibration_changes_every_probability_in_the_same_way(trained: Path, command: Command) -> None:
    """Of predict and of Python: log p / T + b, normalised."""
    record = json.loads((trained / "run" / "calibration.json").read_text())
    found: dict[str, list[dict[str, Any]]] = {}
    for name, more in (("plain", []), ("calibrated", ["calibrated=true"])):
        line = ("run=run", "input=in.csv", f"output={name}.jsonl", "probabilities=true", *more)
        done = command("predict", *line, cwd=trained)
        assert done.returncode == 0, done.stderr
        found[name] = read_jsonl(trained / f"{name}.jsonl")
    labels = record["labels"]
    plain, calibrated = (
        np.array([[row["probabilities"][label] for label in labels] for row in found[name]]) for name in found
    )
    expected = np.exp(log_softmax(np.log(plain) / record["temperature"] + record["biases"]))
    assert calibrated == pytest.approx(expected, abs=1e-12) and np.abs(calibrated - plain).max() > 0.001
    classifier = llm_cls.load(trained / "run", accelerator="cpu", calibrated=True)
    texts = [{key: row[key] for key in ("title", "body")} for row in found["plain"]]
    assert [x.probabilities for x in classifier.predict(texts)] == [
        pytest.approx(row["probabilities"], abs=1e-6) for row in found["calibrated"]
    ]


def test_texts_below_the_threshold_are_not_labelled(trained: Path, command: Command) -> None:
    plain = {}
    for decide in ("argmax", "0.6", "policy", "cost"):
        calibrated = "true" if decide in ("policy", "cost") else "false"
        line = ("run=run", f"calibrated={calibrated}", f"decide={decide}", f"output={decide}.jsonl")
        done = command("predict", *line, "input=in.csv", "probabilities=true", "none_label=unsure", cwd=trained)
        assert done.returncode == 0, done.stderr
        plain[decide] = read_jsonl(trained / f"{decide}.jsonl")
    record = json.loads((trained / "run" / "calibration.json").read_text())
    for decide, threshold in (("0.6", 0.6), ("policy", record["policy"]["threshold"])):
        for row in plain[decide]:
            p = row["probabilities"]
            best = max(p, key=p.__getitem__)
            assert row["confidence"] == p[best]
            assert row["predicted_label"] == (best if p[best] >= threshold else "unsure")
    assert {row["predicted_label"] for row in plain["0.6"]} > {"unsure"}, "some texts are on either side"
    assert {row["predicted_label"] for row in plain["policy"]} > {"unsure"}
    assert {row["predicted_label"] for row in plain["cost"]} > {"unsure"}
    matrix = np.array(record["costs"]["matrix"])
    for row in plain["cost"]:
        p = row["probabilities"]
        chosen = int(np.argmin(np.array([p[name] for name in record["labels"]]) @ matrix))
        name = [*record["labels"], "unsure"][chosen]
        assert row["predicted_label"] == name and row["confidence"] == p.get(name, max(p.values()))


def test_evaluate_reports_coverage_and_selective_accuracy(trained: Path, command: Command) -> None:
    done = command("evaluate", "run=run", "data.file=in.csv", "decide=0.6", cwd=trained)
    assert done.returncode == 0, done.stderr
    folder = trained / "run" / "evaluations" / f"in-{sha256_file(trained / 'in.csv')[:8]}-0.6"
    found, lines = json.loads((folder / "evaluation.json").read_text()), read_jsonl(folder / "predictions.jsonl")
    scored = [line for line in lines if line["scored"]]
    kept = [line for line in scored if line["decision"] != "none"]
    assert all((max(line["probabilities"].values()) >= 0.6) == (line["decision"] != "none") for line in lines)
    right = sum(line["decision"] == line["label"] for line in kept)
    assert 0 < len(kept) < len(scored)
    assert found["decision"]["coverage"] == len(kept) / len(scored)
    assert found["decision"]["accuracy"] == right / len(kept) and found["decision"]["rule"] == "0.6"
    assert found["decision"]["unknown"] == 1 and "calibration" not in found
    assert f"decide=0.6: {len(kept)} of {len(scored)} texts labelled" in done.stdout
    done = command("evaluate", "run=run", "data.file=in.csv", "calibrated=true", "output=out", cwd=trained)
    assert done.returncode == 0, done.stderr
    record = json.loads((trained / "out" / "evaluation.json").read_text())
    assert record["calibration"] == json.loads((trained / "run" / "calibration.json").read_text())["digest"]
    assert "decision" not in record


def test_sets_are_those_that_calibrate_has_checked_on_test(trained: Path, command: Command) -> None:
    """Of calibrated probabilities; the figures on the test texts are those in ``calibration.json``."""
    run = shutil.copytree(trained / "run", trained / "sets")
    done = command("calibrate", "run=sets", "alpha=0.45", cwd=trained)
    assert done.returncode == 0, done.stderr
    done = command("evaluate", "run=sets", "data.file=in.csv", "calibrated=true", "sets=true", cwd=trained)
    assert done.returncode == 0, done.stderr
    record = CalibrationRecord.model_validate_json((run / "calibration.json").read_bytes())
    sets = record.sets
    assert sets is not None and sets.test is not None and 0 < sets.test.empty < sets.test.n, "a level between texts"
    folder = run / "evaluations" / f"in-{sha256_file(trained / 'in.csv')[:8]}-calibrated-sets"
    found = json.loads((folder / "evaluation.json").read_text())["sets"]
    assert found == {"alpha": 0.45, "level": sets.level, **sets.test.model_dump()}
    assert f"{sets.test.mean_size:.2f} labels on average, true label in {100 * sets.test.coverage:.2f} %" in done.stdout
    lines = read_jsonl(folder / "predictions.jsonl")
    assert sum(len(line["label_set"]) for line in lines if line["scored"]) / found["n"] == found["mean_size"]

    changed = {"temperature": 3.0, "biases": [0.2, -0.3, 0.1], "sets": sets.model_copy(update={"level": 0.3})}
    write_calibration(run, record.model_copy(update=changed))
    line = ("run=sets", "input=in.csv", "calibrated=true", "sets=true", "probabilities=true")
    for name in ("sets.jsonl", "sets.csv"):
        done = command("predict", *line, f"output={name}", cwd=trained)
        assert done.returncode == 0, done.stderr
    rows = read_jsonl(trained / "sets.jsonl")
    for row in rows:
        ranked = sorted(row["probabilities"], key=lambda label: -row["probabilities"][label])
        assert row["label_set"] == [label for label in ranked if row["probabilities"][label] >= 0.3]
    assert {len(row["label_set"]) for row in rows} >= {1, 2}
    with (trained / "sets.csv").open(encoding="utf-8", newline="") as file:
        assert [json.loads(row["label_set"]) for row in csv.DictReader(file)] == [row["label_set"] for row in rows]


def test_decisions_need_what_they_were_fitted_for(finished_run: Path, command: Command, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    (tmp_path / "in.jsonl").write_text('{"title": "t", "body": "b"}\n')
    line = ("run=run", "input=in.jsonl", "output=out.jsonl")

    def fault(*arguments: str) -> tuple[int, str]:
        done = command("predict", *line, *arguments, cwd=tmp_path)
        assert done.stderr.count("\n") == 1
        return done.returncode, done.stderr

    assert fault("decide=policy") == (
        2,
        "Error: decide=policy was fitted on calibrated probabilities. Add calibrated=true\n",
    )
    code, text = fault("calibrated=true")
    assert code == 2 and "run=run has no calibration.json. Run python -m llm_cls.calibrate run=run" in text
    assert fault("sets=true") == (2, "Error: sets=true was fitted on calibrated probabilities. Add calibrated=true\n")
    assert "decide must be argmax, policy, cost or a number between 0 and 1" in fault("decide=2")[1]
    assert "none_label=smax is a label of the run" in fault("decide=0.5", "none_label=smax")[1]
    assert command("calibrate", "run=run", cwd=tmp_path).returncode == 0
    assert "has no threshold. Run python -m llm_cls.calibrate" in fault("calibrated=true", "decide=policy")[1]
    assert "has no costs. Run python -m llm_cls.calibrate" in fault("calibrated=true", "decide=cost")[1]
    assert "has no sets. Run python -m llm_cls.calibrate" in fault("calibrated=true", "sets=true")[1]
    assert "top_k must be 1 with decide=cost" in fault("calibrated=true", "decide=cost", "top_k=2")[1]
    (run / "calibration.json").write_text("{")
    code, text = fault("calibrated=true")
    assert code == 5 and "calibration.json is damaged" in text
    assert command("predict", *line, cwd=tmp_path).returncode == 0, "nobody asked for it"
