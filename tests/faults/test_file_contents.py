"""Files with any content: each reader gives values or one line about the file, and ends."""

import copy
import gzip
import io
import json
import shutil
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from llm_cls.config.schema import PrunerConfig
from llm_cls.data.rows import column, read_rows
from llm_cls.data.tokenizer import load_tokenizer
from llm_cls.errors import ArtifactError, DataError, LlmClsError, first_line
from llm_cls.files import sha256_file, write_json
from llm_cls.model.artifact import load_artifact
from llm_cls.model.decoder import load_architecture, load_decoder
from llm_cls.reporting.predictions import read_test_predictions
from llm_cls.reporting.runs import read_runs
from llm_cls.runs.config_file import read_config, read_values
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.manifest import verify_model
from llm_cls.runs.predictions import read_predictions
from llm_cls.runs.pruning import Pruner
from llm_cls.runs.state import read_files, read_result, read_state
from llm_cls.runs.sweep import Entry, progress_line, read_plan, read_states, write_plan
from llm_cls.training.checkpoints import AtomicCheckpointIO, find_checkpoint

from .contents import changed_value, contents, encode, hangs_fail, values
from .harness import ALL, Experiment

EXAMPLES = 1000 if ALL else 25
LABELS = ("dokujo-tsushin", "it-life-hack")  # some of the run's
SLOW_EXAMPLES = 200 if ALL else 5  # where each loads a network


@pytest.fixture(scope="module")
def run(single_run: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has its checkpoints still; every test leaves it as it was."""
    folder = tmp_path_factory.mktemp("contents") / "runs" / "run"
    case = next(case for case in single_run.cases if case.epochs == 2 and case.fault == "kill")
    single_run.restore(case, folder)
    single_run.restore(single_run.end, folder)
    return folder


def fails_with(
    kinds: type[Exception] | tuple[type[Exception], ...], reader: Callable[..., object], *given: Any
) -> None:
    """Calls a reader, which may raise these errors only, with one line."""
    try:
        reader(*given)
    except kinds as error:
        assert str(error).strip() and "\n" not in str(error), repr(str(error))


def check(
    path: Path,
    reader: Callable[[], object],
    strategy: st.SearchStrategy[bytes] | None = None,
    examples: int = EXAMPLES,
) -> None:
    """Calls a reader for many contents of a file, and fails with each kind of error that it lets through."""
    valid = path.read_bytes()
    errors: dict[str, tuple[str, bytes]] = {}

    health = list(HealthCheck)

    @settings(max_examples=examples, deadline=None, derandomize=not ALL, database=None, suppress_health_check=health)
    @given(strategy if strategy is not None else contents(valid, path.name))
    def test(content: bytes) -> None:
        path.write_bytes(content)
        try:
            with hangs_fail():
                reader()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            own = next((frame for frame in reversed(where) if "llm_cls/" in frame.filename), where[-1])
            kind = f"{Path(own.filename).name}, {own.name}: {type(error).__name__}"
            known = errors.get(kind)
            if known is None or len(content) < len(known[1]):
                errors[kind] = (first_line(error)[:200], content)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch and yaml have some
            test()
    finally:
        path.write_bytes(valid)
    if errors:
        lines = [f"{kind}: {text}; for {data[:80]!r} ({len(data)} bytes)" for kind, (text, data) in errors.items()]
        pytest.fail("\n".join([f"{path.name}: {len(lines)} kinds of errors", *lines]), pytrace=False)


def read_everything(run: Path) -> None:
    """What commands read of a run without its network."""
    assert read_state(run).name
    for reader in (read_files, read_result):
        fails_with(ArtifactError, reader, run)
    for reader in (read_config, read_values):
        fails_with(ArtifactError, reader, run / "config.yaml")
    for split in ("val", "test"):
        fails_with(ArtifactError, read_predictions, run, split, LABELS)
    for found in read_runs(run.parent):
        assert found.state and "\n" not in found.reason
        if found.scored:
            fails_with(ValueError, read_test_predictions, found)


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "run.json", "metrics.json", "history.jsonl", "predictions/test.jsonl", "predictions/val.jsonl"],
)
def test_files_of_a_run(run: Path, name: str) -> None:
    check(run / name, lambda: read_everything(run))


def test_configurations(run: Path) -> None:
    """YAML whose values have another form."""
    tree = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    texts = changed_value(tree).map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "ignore"))
    check(run / "config.yaml", lambda: read_everything(run), texts)


def test_failures(run: Path) -> None:
    valid = (run / "metrics.json").read_bytes()
    (run / "metrics.json").unlink()
    write_json(run / "failed.json", {"reason": "why", "exit_code": 3})
    try:
        check(run / "failed.json", lambda: read_everything(run))
    finally:
        (run / "metrics.json").write_bytes(valid)
        (run / "failed.json").unlink()


@pytest.fixture(scope="module")
def decoder(run: Path) -> PreTrainedModel:
    """The pretrained network of the run."""
    config = read_config(run / "config.yaml")
    return load_decoder(config.model, load_architecture(config.model), torch.float32, torch.device("cpu"), config.seed)


def load_model(run: Path, decoder: PreTrainedModel) -> None:
    """Everything that predict reads, with the digests of the files as they are."""
    folder = run / "model"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    write_json(folder / "manifest.json", {path.name: sha256_file(path) for path in files})
    config = read_config(run / "config.yaml")
    own = config.model.model_copy(update={"name": str(folder), "tokenizer": None, "revision": None})

    def load() -> None:
        verify_model(folder)
        load_tokenizer(own, 0)
        load_artifact(copy.deepcopy(decoder), config, folder)

    fails_with(LlmClsError, load)


@pytest.mark.parametrize(
    "name",
    [
        "labels.json", "head.safetensors", "adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json",
        "tokenizer.json",
    ],
)  # fmt: skip
def test_files_of_a_model(run: Path, decoder: PreTrainedModel, name: str) -> None:
    path = run / "model" / name
    valid = path.read_bytes()
    strategy = contents(valid, name if len(valid) < 10_000 else "")
    if name.endswith(".safetensors"):
        strategy |= changed_header(valid)
    check(path, lambda: load_model(run, decoder), strategy, SLOW_EXAMPLES)


def changed_header(valid: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file whose tensors have other names, types, shapes or places."""
    size = int.from_bytes(valid[:8], "little")

    def pack(header: Any) -> bytes:
        text = encode(header)
        return len(text).to_bytes(8, "little") + text + valid[8 + size :]

    return changed_value(json.loads(valid[8 : 8 + size])).map(pack)


def test_manifests(run: Path) -> None:
    check(run / "model" / "manifest.json", lambda: fails_with(ArtifactError, verify_model, run / "model"))


def read_checkpoint(path: Path) -> None:
    fails_with(ArtifactError, AtomicCheckpointIO().load_checkpoint, path)
    fails_with(ArtifactError, find_checkpoint, RunDirectory(path.parent.parent), "run_id")


@pytest.mark.parametrize("part", ["bytes", "values", "callbacks"])
def test_checkpoints(run: Path, tmp_path: Path, part: str) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"  # its name has no digest, so that the content is read
    path.parent.mkdir()
    shutil.copy(next((run / "checkpoints").glob("epoch-0002-*.ckpt")), path)
    strategies = {
        "bytes": contents(path.read_bytes(), path.name),
        "values": values.map(saved),
        "callbacks": values.map(lambda value: saved({"callbacks": {"run_recorder": value}})),
    }
    check(path, lambda: read_checkpoint(path), strategies[part])


def saved(value: Any) -> bytes:
    """``value`` as torch saves it."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_plans(tmp_path: Path) -> None:
    write_plan(tmp_path, [Entry(directory=name, overrides=[f"seed={name}"], swept=[]) for name in "ab"])

    def read() -> None:
        fails_with(ArtifactError, read_plan, tmp_path)
        fails_with(ArtifactError, lambda: progress_line(read_states(tmp_path)))

    check(tmp_path / "sweep.jsonl", read)


def test_journals_of_the_pruner(tmp_path: Path) -> None:
    write_plan(tmp_path, [Entry(directory="a", overrides=[], swept=[])])
    config = PrunerConfig(name="median")
    Pruner(config, tmp_path / "a", 2)
    check(tmp_path / "optuna.jsonl", lambda: fails_with(ArtifactError, Pruner, config, tmp_path / "a", 2))


TABLES = {
    "a.csv": b'id,title,body\n1,x,"y, z"\n2,a,b\n', "a.tsv": b"id\ttitle\tbody\n1\tx\ty\n",
    "a.jsonl": b'{"id": 1, "title": "x", "body": "y"}\n{"id": 2, "title": null, "body": "z"}',
    "a.json": b'[{"id": 1, "title": "x", "body": "y"}]', "a.ndjson": b'{"body": "y"}', "a.parquet": b"",
    "a.csv.gz": gzip.compress(b"id,title,body\n1,x,y\n"), "a.xlsx": b"",
    "a.jsonl.zst": pyarrow.compress(b'{"id": "1", "body": "y"}', "zstd", asbytes=True),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(TABLES[name])
    if name == "a.parquet":
        import pandas

        pandas.DataFrame({"id": [1, 2], "body": ["x", None]}).to_parquet(path)

    if name == "a.xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        for row in (["id", "body"], [1, "x"], [2, None]):
            book.active.append(row)
        book.save(path)

    def read() -> None:
        rows = read_rows(path)
        for key in list(rows[0])[:3]:
            column(rows, key, "text", path)
        column(rows, "body", "text", path, may_be_empty=True)

    check(path, lambda: fails_with(DataError, read))
