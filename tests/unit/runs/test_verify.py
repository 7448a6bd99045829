"""Every file of a run is covered: a change of any of them is noticed, and a manifest stays inside its folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llm_cls.errors import ArtifactError
from llm_cls.files import write_json
from llm_cls.runs import layout
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.manifest import ModelManifest, RunManifest, verify_beginning, write_manifest
from llm_cls.runs.verify import verify_run
from tests.unit.runs.test_directory import complete, config, record

FILES = ("config.yaml", "run.json", "history.jsonl", "metrics.json", "manifest.json", "model/manifest.json",
         "model/head.safetensors", "model/labels.json", "predictions/val.jsonl", "predictions/test.jsonl")  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = RunDirectory(tmp_path / "run")
    begun = directory.begin(config(), record())
    directory.write_history([])
    complete(directory, begun)
    return directory.path


def test_a_run_as_written_is_verified(run: Path) -> None:
    verify_run(run)
    found = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    assert found == sorted(FILES), "no file is left out below"


@pytest.mark.parametrize("name", [name for name in FILES if name != layout.METRICS])  # without it a run is not complete
def test_a_missing_file_is_noticed(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(ArtifactError, match=Path(name).name):
        verify_run(run)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("bit", [0, 5])
def test_a_flipped_bit_in_each_byte_is_noticed(run: Path, name: str, bit: int) -> None:
    content = (run / name).read_bytes()
    for i in range(0, len(content), max(1, len(content) // 60)):
        changed = bytearray(content)
        changed[i] ^= 1 << bit
        (run / name).write_bytes(changed)
        try:
            verify_run(run)
        except ArtifactError:
            continue
        same = json.loads(content) == json.loads(changed) if name.endswith("manifest.json") else False
        assert same, f"byte {i} of {name}: only white space of a manifest may change"


@pytest.mark.parametrize("name", ["predictions/other.jsonl", "model/extra.bin"])
def test_an_unlisted_file_is_noticed(run: Path, name: str) -> None:
    (run / name).touch()
    with pytest.raises(ArtifactError, match=f"does not list .*{Path(name).name}"):
        verify_run(run)


def test_the_model_of_another_run_is_noticed(run: Path) -> None:
    shutil.copytree(run, run.parent / "other")
    (run.parent / "other" / "model" / "labels.json").write_text('["y"]\n')
    own = json.loads((run / "model" / "manifest.json").read_text())
    write_json(run.parent / "other" / "model" / "manifest.json", own | {"labels.json": "0" * 64})
    shutil.rmtree(run / "model")
    shutil.copytree(run.parent / "other" / "model", run / "model")
    with pytest.raises(ArtifactError, match=r"manifest.json is damaged"):
        verify_run(run)


def test_a_configuration_that_is_not_that_of_the_identity_is_noticed_behind_a_fitting_manifest(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    assert "max_length: 512" in text
    (run / "config.yaml").write_text(text.replace("max_length: 512", "max_length: 256"))
    write_manifest(run, record().run_id, {}, complete=True)
    with pytest.raises(ArtifactError, match=r"data.max_length: 512 there, 256 here"):
        verify_run(run)


def test_a_run_that_has_begun_is_covered(tmp_path: Path) -> None:
    RunDirectory(tmp_path).begin(config(), record())
    verify_run(tmp_path)
    for name in (layout.CONFIG, layout.RECORD):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before.replace(b"42", b"43", 1))
        with pytest.raises(ArtifactError, match=f"{name} is damaged"):
            verify_beginning(tmp_path)
        (tmp_path / name).write_bytes(before)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x", "a\x1b[0m"])
def test_names_in_manifests_stay_inside(name: str) -> None:
    files: dict[str, Any] = {name: "0" * 64}
    with pytest.raises(ValidationError):
        ModelManifest(files)
    with pytest.raises(ValidationError):
        RunManifest(run_id="x", files=files)
