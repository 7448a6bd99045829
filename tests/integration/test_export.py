"""``llm_cls.export``: what other software computes from a finished run, against the run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoConfig, AutoTokenizer, pipeline

from llm_cls.config.exporting import ExportArguments
from llm_cls.data.load import load_corpus
from llm_cls.data.template import layout, render
from llm_cls.errors import ArtifactError
from llm_cls.exporting.client import Texts
from llm_cls.exporting.export import export
from llm_cls.exporting.network import merged_network
from llm_cls.hub import SHIPPED
from llm_cls.runs.calibration import CalibrationRecord, write_calibration
from llm_cls.runs.config_file import read_config
from tests.jsonl import read_jsonl

from .conftest import TINY, Command


@pytest.fixture(scope="module")
def merged(finished_run: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    done = command("export", f"run={finished_run}", "output=merged", "license=cc-by-4.0", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "merged, float32: 120 of 120 texts have equal ids\n" in done.stdout and "\n  merged\n" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["merged"]
    return folder / "merged"


def of_the_run(run: Path) -> tuple[list[str], list[dict[str, str]], np.ndarray[Any, Any]]:
    """Labels, titles with bodies, and the probabilities that the training has stored, of the test texts."""
    texts = load_corpus(read_config(run / "config.yaml").data).splits["test"]
    stored = {line["id"]: line["probabilities"] for line in read_jsonl(run / "predictions" / "test.jsonl")}
    labels = json.loads((run / "model" / "labels.json").read_text())
    rows = [{"title": text.title, "body": text.body} for text in texts]
    return labels, rows, np.array([[stored[text.id][label] for label in labels] for text in texts])


def test_the_pipeline_of_transformers_gives_the_probabilities_of_the_run(finished_run: Path, merged: Path) -> None:
    """From strings alone: the rendered texts, cut by the client of the export, which needs neither torch nor us."""
    labels, rows, expected = of_the_run(finished_run)
    program = (
        "import json, sys; sys.modules['torch'] = sys.modules['transformers'] = None; from client import Texts; "
        "t = Texts('.'); rows = json.load(sys.stdin); "
        "print(json.dumps([[t.string(**r) for r in rows], [t.token_ids(**r) for r in rows]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=merged, input=json.dumps(rows), capture_output=True, text=True, check=True
    )
    strings, ids = json.loads(done.stdout)
    classify: Any = pipeline("text-classification", model=str(merged), top_k=None)
    found = [{entry["label"]: entry["score"] for entry in row} for row in classify(strings, batch_size=5)]
    tokenizer = AutoTokenizer.from_pretrained(merged)
    trained = read_config(finished_run / "config.yaml")
    parts = layout(trained.template, trained.data)
    same = [i for i, text in enumerate(strings) if tokenizer(text)["input_ids"] == ids[i]]
    assert len(same) >= 0.5 * len(rows)
    for i in same:
        assert [found[i][label] for label in labels] == pytest.approx(expected[i], abs=1e-5)
    whole = [i for i, row in enumerate(rows) if "".join(render(parts, row)) == strings[i]]
    assert set(whole) <= set(same)


def test_the_folder_says_what_it_is(finished_run: Path, merged: Path) -> None:
    labels, rows, _ = of_the_run(finished_run)
    config = AutoConfig.from_pretrained(merged)
    assert config.architectures == ["GPTNeoXForSequenceClassification"] and str(config.dtype) == "torch.float32"
    assert config.id2label == dict(enumerate(labels)) and config.problem_type == "single_label_classification"
    parity = json.loads((merged / "parity.json").read_text())
    record = json.loads((finished_run / "run.json").read_text())
    assert (parity["run_id"], parity["labels"], parity["label_order_equal"]) == (record["run_id"], labels, True)
    assert parity["ids"]["equal"] == parity["ids"]["texts"] == 120
    certified = [found for found in parity["comparisons"] if found["certified"]]
    assert {found["input"] for found in certified} == {"ids", "strings"}
    for found in certified:
        assert 0 < found["largest_difference"] <= 1e-5 and found["changed_decisions"] == 0
    assert parity["versions"].keys() >= {"torch", "transformers", "tokenizers", "python"}
    card = (merged / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "cc-by-4.0" and header["pipeline_tag"] == "text-classification"
    metrics = json.loads((finished_run / "metrics.json").read_text())
    low, high = metrics["test"]["f1_ci95"]
    assert f"| test | {len(rows)} | {100 * metrics['test']['f1']:.2f} | {100 * low:.2f} to {100 * high:.2f} |" in card
    assert record["data"]["digest"] in card and record["model"]["revision"] in card
    for text in [card, *(path.read_text() for path in merged.glob("*.json"))]:
        assert str(finished_run) not in text and str(SHIPPED["ja-mini"]) not in text


def test_an_existing_output_is_refused(finished_run: Path, merged: Path, command: Command) -> None:
    before = sorted(merged.iterdir())
    done = command("export", f"run={finished_run}", "output=merged", cwd=merged.parent)
    assert done.returncode == 2
    assert done.stderr == "Error: output=merged exists. Give the name of a new folder, or remove it\n"
    assert sorted(merged.iterdir()) == before


@pytest.fixture(scope="module")
def calibrated(finished_run: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a calibrated run, what predict gives for its test texts, and another run with biases.

    All of its few val texts are right, which determines no temperature: it gets one by hand.
    """
    folder = tmp_path_factory.mktemp("calibrated")
    for name, biases in (("run", [0.0, 0.0, 0.0]), ("biased", [0.5, -0.25, -0.25])):
        shutil.copytree(finished_run, folder / name, ignore=shutil.ignore_patterns("wandb"))
        done = command("calibrate", f"run={name}", "method=temperature", cwd=folder)
        assert done.returncode == 0, done.stderr
        found = CalibrationRecord.model_validate_json((folder / name / "calibration.json").read_bytes())
        write_calibration(folder / name, found.model_copy(update={"temperature": 0.7, "biases": biases}))
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_the_run(finished_run)[1]))
        line = (f"run={name}", "input=in.jsonl", f"output={name}.jsonl", "calibrated=true", "probabilities=true")
        done = command("predict", *line, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_a_calibrated_export_gives_the_calibrated_probabilities_of_predict(calibrated: Path, command: Command) -> None:
    done = command("export", "run=run", "output=merged", "calibrated=true", cwd=calibrated)
    assert done.returncode == 0 and "merged, float32, calibrated: 120 of 120" in done.stdout, done.stderr
    rows = read_jsonl(calibrated / "run.jsonl")
    tokenizer, client = AutoTokenizer.from_pretrained(calibrated / "merged"), Texts(calibrated / "merged")
    texts = [{key: row[key] for key in ("title", "body")} for row in rows]
    strings = [client.string(**text) for text in texts]
    classify: Any = pipeline("text-classification", model=str(calibrated / "merged"), top_k=None)
    compared = 0
    for row, text, string, scores in zip(rows, texts, strings, classify(strings), strict=True):
        if tokenizer(string)["input_ids"] == client.token_ids(**text):
            expected = row["probabilities"]
            assert {entry["label"]: entry["score"] for entry in scores} == pytest.approx(expected, abs=1e-5)
            compared += 1
    assert compared >= 0.5 * len(rows)
    parity = json.loads((calibrated / "merged" / "parity.json").read_text())
    assert parity["calibration"] == json.loads((calibrated / "run" / "calibration.json").read_text())["digest"]
    assert "calibrated probabilities (temperature 0.7)" in (calibrated / "merged" / "README.md").read_text()


def test_a_head_without_a_bias_does_not_take_one(calibrated: Path, command: Command) -> None:
    done = command("export", "run=biased", "output=refused", "calibrated=true", cwd=calibrated)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "Error: GPTNeoXForSequenceClassification of transformers has a head without a bias, and the calibration has "
        "one for each label. Use format=onnx, or run llm_cls.calibrate method=temperature",
    )
    assert not any(path.name.startswith("refused") or path.suffix == ".tmp" for path in calibrated.iterdir())


@pytest.mark.slow
def test_a_graph_takes_a_bias_for_each_label(calibrated: Path, command: Command) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = command("export", "run=biased", "output=graph", "format=onnx", "calibrated=true", cwd=calibrated)
    assert done.returncode == 0 and "onnx, float32, calibrated: 120 of 120" in done.stdout, done.stderr
    session = onnxruntime.InferenceSession(str(calibrated / "graph" / "model.onnx"))
    labels, client = (
        json.loads((calibrated / "graph" / "llm_cls.json").read_text())["labels"],
        Texts(calibrated / "graph"),
    )
    for row in read_jsonl(calibrated / "biased.jsonl"):
        ids = np.array([client.token_ids(row["body"], title=row["title"])])
        (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0].astype(float)
        p = np.exp(logits - logits.max())
        assert dict(zip(labels, p / p.sum(), strict=True)) == pytest.approx(row["probabilities"], abs=1e-5)


@pytest.mark.slow
def test_a_calibrated_adapter_is_certified(calibrated: Path, command: Command) -> None:
    done = command("export", "run=run", "output=adapter", "format=peft", "calibrated=true", cwd=calibrated)
    assert done.returncode == 0 and "peft, float32, calibrated: 120 of 120" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def local_run(archive: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a local folder, with DoRA, and texts of unequal lengths."""
    folder = tmp_path_factory.mktemp("local")
    shutil.copytree(SHIPPED["ja-mini"], folder / "base")
    done = command(
        "train", *TINY, "trainer.max_epochs=1", "lora.use_dora=true", f"data.archive={archive}", "hydra.run.dir=run",
        "model=hf", "model.name=base", "data.max_length=56", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_peft_loads_the_adapter_with_its_head(
    local_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(local_run.parent)
    done = command("export", "run=run", "output=adapter", "format=peft", cwd=local_run.parent)
    assert (done.returncode, "peft, float32" in done.stdout) == (0, True), done.stderr
    described = json.loads(Path("adapter/adapter_config.json").read_text())
    assert (described["task_type"], described["modules_to_save"]) == ("SEQ_CLS", ["score"])
    assert described["target_modules"] == ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]
    labels, rows, expected = of_the_run(local_run)
    tokenizer = AutoTokenizer.from_pretrained("adapter")
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    model: Any = AutoPeftModelForSequenceClassification.from_pretrained(
        "adapter", pad_token_id=tokenizer.pad_token_id, dtype="float32", **names
    )
    classify: Any = pipeline(
        "text-classification", model=model.merge_and_unload(), tokenizer=tokenizer, top_k=None, device="cpu"
    )
    client = Texts("adapter")
    strings = [client.string(**row) for row in rows]
    same = [i for i, text in enumerate(strings) if tokenizer(text)["input_ids"] == client.token_ids(**rows[i])]
    assert len(same) > 1 and len({len(client.token_ids(**rows[i])) for i in same}) > 1  # of unequal lengths
    for i, row in enumerate(classify(strings, batch_size=4)):
        scores = {entry["label"]: entry["score"] for entry in row}
        if i in same:
            assert [scores[label] for label in labels] == pytest.approx(expected[i], abs=1e-5)


def test_an_export_that_computes_something_else_is_refused(local_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of it. The rows of the head are exchanged while it is written."""

    def exchanged(*arguments: Any) -> Any:
        network: Any = merged_network(*arguments)
        network.score.weight.data = network.score.weight.data.flip(0)
        return network

    monkeypatch.chdir(local_run.parent)
    monkeypatch.setattr("llm_cls.exporting.merged.merged_network", exchanged)
    with pytest.raises(ArtifactError, match=r"^transformers computes something else from ids: a probability .* 1e-05"):
        export(ExportArguments(run=Path("run"), output=Path("wrong")))
    assert not any(path.name == "wrong" or path.suffix == ".tmp" for path in local_run.parent.iterdir())
