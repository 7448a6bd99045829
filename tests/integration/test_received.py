"""A run directory that somebody sent: whatever it holds, nothing is executed, sent or written outside.

The sender knows this code: every manifest and the identity fit the payload.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from llm_cls.hub import SHIPPED, content_revision
from llm_cls.runs import layout
from llm_cls.runs.config_file import read_config
from llm_cls.runs.identity import identity, run_id
from llm_cls.runs.manifest import write_manifest, write_model_manifest
from tests.unit.data.server import Server

from .conftest import Command

MARK = "open({path!r}, 'w').close()\n"


@pytest.fixture
def listener() -> Iterator[Server]:
    with Server() as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    (tmp_path / "in.csv").write_text("title,body\n題,文\n", encoding="utf-8")
    return Path(shutil.copytree(finished_run, tmp_path / "received", ignore=shutil.ignore_patterns("wandb")))


def change(run: Path, section: str, **values: Any) -> None:
    """Changes the configuration."""
    config = yaml.safe_load((run / layout.CONFIG).read_text(encoding="utf-8"))
    config[section] |= values
    (run / layout.CONFIG).write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")


def seal(run: Path, facts: dict[str, Any] | None = None) -> None:
    """Makes identity and manifests fit the files."""
    record = json.loads((run / layout.RECORD).read_text(encoding="utf-8"))
    parts = identity(read_config(run / layout.CONFIG), record["identity"] | (facts or {}))
    record |= {"identity": parts, "run_id": run_id(parts)}
    if facts:
        record["model"]["revision"] = facts["model.revision"]
    (run / layout.RECORD).write_text(json.dumps(record), encoding="utf-8")
    write_model_manifest(run / layout.MODEL)
    write_manifest(run, record["run_id"], {}, complete=True)


@pytest.fixture
def everything(command: Command, run: Path) -> Callable[[], dict[str, Any]]:
    """Runs every command that reads a run directory; returns what each of them said."""

    def call() -> dict[str, Any]:
        folder = run.parent
        lines = {
            "predict": (f"run={run}", "input=in.csv", "output=out.csv", "accelerator=cpu"),
            "status": (f"dir={run}", "verify=true"),
            "report": (f"dir={run}",),
        }
        done = {name: command(name, *line, cwd=folder) for name, line in lines.items()}
        for name, result in done.items():
            assert "Traceback" not in result.stderr and result.returncode != 1, (name, result.stderr)
        return done

    return call


def test_code_of_the_model_needs_the_permission_of_the_command_line(
    run: Path, everything: Callable[[], dict[str, Any]], command: Command, tmp_path: Path
) -> None:
    evil, mark = tmp_path / "evil", tmp_path / "executed"
    shutil.copytree(SHIPPED["ja-mini"], evil)
    settings = json.loads((evil / "config.json").read_text())
    names = {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoTokenizer": ["code.Tokenizer", None]}
    (evil / "config.json").write_text(json.dumps(settings | {"model_type": "own", "auto_map": names}))
    (evil / "code.py").write_text(MARK.format(path=str(mark)))
    shutil.copy(evil / "code.py", run / layout.MODEL)
    described = run / layout.MODEL / "tokenizer_config.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"auto_map": names}))
    change(run, "model", name=str(evil), trust_remote_code=True)
    seal(run, {"model.revision": content_revision(evil), "model.name": None})
    done = everything()
    assert done["predict"].returncode == 2 and "Add trust_remote_code=true if you trust" in done["predict"].stderr
    change(run, "model", trust_remote_code=False)
    seal(run)
    assert everything()["predict"].returncode in (2, 5)
    assert not mark.exists()
    command("predict", f"run={run}", "input=in.csv", "output=out.csv", "trust_remote_code=true", cwd=tmp_path)
    assert mark.exists(), "the code works, where the user allows it"


def test_the_adapter_imports_no_module(run: Path, everything: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    """PEFT imports the module that ``megatron_core`` names, also from the working directory."""
    mark = tmp_path / "executed"
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "payload.py").write_text(MARK.format(path=str(mark)))
    described = run / layout.MODEL / "adapter_config.json"
    own = {"megatron_config": {"a": 1}, "megatron_core": "megatron.payload"}
    described.write_text(json.dumps(json.loads(described.read_text()) | own))
    seal(run)
    assert everything()["predict"].returncode == 0
    assert not mark.exists()


def test_nothing_is_resolved_sent_or_written(
    run: Path, everything: Callable[[], dict[str, Any]], listener: Server, tmp_path: Path
) -> None:
    address = f"{listener.url}/${{oc.env:HOME}}"
    change(run, "data", url=address, archive=None, name="livedoor", cache_dir=str(tmp_path / "outside" / "cache"))
    change(run, "logger", name="wandb", project="${oc.env:HOME}")
    seal(run)
    before = {path for path in tmp_path.rglob("*") if run not in path.parents}
    done = everything()
    assert done["predict"].returncode == done["report"].returncode == done["status"].returncode == 0
    assert listener.paths == [] and not (tmp_path / "outside").exists()
    assert {path for path in tmp_path.rglob("*") if run not in path.parents} - before == {tmp_path / "out.csv"}
    home = os.environ["HOME"].encode()
    assert not any(home in path.read_bytes() for path in (run / "report").iterdir() if path.is_file())


def test_the_weights_are_those_of_the_training(
    run: Path, everything: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(SHIPPED["ja-mini"], own)
    change(run, "model", name=str(own))
    seal(run)
    assert everything()["predict"].returncode == 0, "the same files in another folder"
    weights = bytearray((own / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (own / "model.safetensors").write_bytes(weights)
    said = everything()["predict"]
    assert said.returncode == 5 and "does not hold the weights that the run was trained with" in said.stderr


BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(30))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", BOMB),
        ("config.yaml", "a: !!python/object/apply:os.system ['touch executed']\n"),
        ("config.yaml", "x" * (2**20 + 1)),
        ("run.json", "[" * 500_000),
        ("metrics.json", '{"a": ' * 100_000),
        ("manifest.json", '{"schema": 3, "run_id": "x", "files": {"../in.csv": "' + "0" * 64 + '"}}'),
        ("model/manifest.json", '{"/etc/passwd": "' + "0" * 64 + '"}'),
        ("predictions/test.jsonl", "[" * 500_000),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)
def test_hostile_files_are_damaged(
    run: Path, everything: Callable[[], dict[str, Any]], tmp_path: Path, name: str, content: str
) -> None:
    (run / name).write_text(content, encoding="utf-8")
    done = everything()
    assert done["predict"].returncode == done["status"].returncode == 5
    assert all(done[command].stderr.count("\n") == 1 for command in ("predict", "status"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "run.json", "metrics.json", "history.jsonl", "predictions/test.jsonl", "manifest.json",
     "model/manifest.json", "model/labels.json", "model/head.safetensors", ".lock"],
)  # fmt: skip
def test_a_pipe_blocks_nobody(run: Path, everything: Callable[[], dict[str, Any]], name: str) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    done = everything()
    assert done["predict"].returncode == (0 if name == ".lock" else 5)


def test_a_folder_that_links_to_itself_ends(run: Path, everything: Callable[[], dict[str, Any]]) -> None:
    (run / layout.MODEL / "again").symlink_to(run / layout.MODEL)
    (run / "again").symlink_to(run)
    everything()
