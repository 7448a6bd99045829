"""``llm_cls.load``: a finished run in a Python process."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import llm_cls
from llm_cls.data.load import load_corpus
from llm_cls.errors import ConfigError, DataError
from llm_cls.runs.config_file import read_config
from llm_cls.training.interface import Classifier
from tests.fork_server import ForkServer
from tests.jsonl import read_jsonl

from .conftest import Command, Program


@pytest.fixture(scope="module")
def classifier(finished_run: Path) -> Classifier:
    return llm_cls.load(finished_run)


@pytest.fixture(scope="module")
def texts(finished_run: Path) -> list[dict[str, str]]:
    splits = load_corpus(read_config(finished_run / "config.yaml").data).splits
    return [{"title": t.title, "body": t.body * (i % 3 + 1)} for i, t in enumerate([*splits["test"], *splits["val"]])]


def test_the_numbers_are_those_of_the_command(
    classifier: Classifier, texts: list[dict[str, str]], finished_run: Path, command: Command, tmp_path: Path
) -> None:
    lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
    (tmp_path / "in.jsonl").write_text(lines, encoding="utf-8")
    line = ("input=in.jsonl", "output=out.jsonl", "probabilities=true", "batch_size=7")
    done = command("predict", f"run={finished_run}", *line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = read_jsonl(tmp_path / "out.jsonl")
    found = classifier.predict(texts, batch_size=7)
    assert [(x.label, x.confidence, x.probabilities) for x in found] == [
        (row["label"], row["confidence"], row["probabilities"]) for row in expected
    ]
    for text, one in zip(texts, found, strict=True):
        (alone,) = classifier.predict([text])
        assert alone.probabilities == pytest.approx(one.probabilities, abs=1e-6)
        assert tuple(alone.probabilities) == classifier.labels and sum(alone.probabilities.values()) == pytest.approx(1)
        assert alone.confidence == max(alone.probabilities.values()) == alone.probabilities[alone.label]
    assert classifier.predict([]) == []


def test_threads_share_it(classifier: Classifier, texts: list[dict[str, str]]) -> None:
    expected = classifier.predict(texts)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(classifier.predict, [texts] * 4))


def test_what_is_no_text_is_named(classifier: Classifier, finished_run: Path) -> None:
    assert classifier.columns == ("title", "body")
    for texts, message in (
        ([{"title": "", "body": "a"}, {"title": "", "body": " "}], r"^texts\[1\]: body is empty\. Leave it out$"),
        ([{"body": "a"}], r"^texts\[0\] must have 'title' and 'body', but 'title' is missing$"),
        (["a"], r"^texts\[0\] must be a mapping with 'title' and 'body', got a string$"),
        ([None], r"^texts\[0\] must be a string or a mapping, got a NoneType$"),
    ):
        with pytest.raises(DataError, match=message):
            classifier.predict(texts)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Try predict\(\[text\]\)"):
        classifier.predict("a")
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        classifier.predict([], batch_size=0)
    with pytest.raises(ConfigError, match="is not a folder"):
        llm_cls.load(finished_run / "nowhere")


def test_it_prints_nothing(finished_run: Path, program: Program, server: ForkServer, tmp_path: Path) -> None:
    """Nor do the packages that it imports, which the server of the forks has imported."""
    text = f"import llm_cls; llm_cls.load({str(finished_run)!r}).predict([{{'title': 'a', 'body': 'b'}}])"
    (tmp_path / "own.py").write_text(text, encoding="utf-8")
    done = program("own", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr, server.said_by_imports()) == (0, "", "", "")


def test_its_import_is_light() -> None:
    program = "import sys, llm_cls; print({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")
