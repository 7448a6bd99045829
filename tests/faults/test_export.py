"""An export, broken at each file operation and repeated: there is all of it or nothing, and the run stays as it is."""

import errno
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from llm_cls.hub import SHIPPED
from tests.conftest import Command, Program
from tests.jsonl import read_jsonl

from .disk import CUTS, Tree, write_tree
from .harness import ALL, TINY, Case

pytestmark = [] if ALL else [pytest.mark.slow]

EXPORT = ("run=run", "output=out/exported", "texts=2")


@dataclass(frozen=True)
class Recorded:
    """An export with all states of the folder around it.

    Attributes:
        folder: Holds the run, and ``out`` with the export.
        states: Where the states are.
        cases: What has left them.
    """

    folder: Path
    states: Path
    cases: list[Case]

    def tree(self, case: Case) -> Tree:
        """The files that a fault has left."""
        names = next(row["files"] for row in read_jsonl(self.states / "cases.jsonl") if self._has(row, case))
        return {name: digest and (self.states / "data" / digest).read_bytes() for name, digest in names.items()}

    @staticmethod
    def _has(row: dict[str, object], case: Case) -> bool:
        return "files" in row and row["state"] == case.state


@pytest.fixture(scope="module")
def recorded(command: Command, program: Program, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A network of a few hundred thousand weights."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=12000, max_position_embeddings=64, **sizes))
    network.save_pretrained(folder / "base")
    for path in SHIPPED["ja-mini"].glob("*token*"):
        shutil.copy(path, folder / "base")
    line = (*TINY, "trainer.max_epochs=1", "model=hf", "model.name=base", "hydra.run.dir=run")
    done = command("train", *line, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "out").mkdir()
    before = contents(folder / "run")
    done = victim(program, folder, "record", "out", "states")
    assert done.returncode == 0, done.stderr
    assert contents(folder / "run") == before
    rows = read_jsonl(folder / "states" / "cases.jsonl")
    cases = [Case(**{key: row[key] for key in Case.__dataclass_fields__}) for row in rows]
    return Recorded(folder, folder / "states", cases)


def victim(program: Program, cwd: Path, *fault: str) -> CompletedProcess[str]:
    return program("tests.faults.victim", *fault, "--", "llm_cls.export", *EXPORT, cwd=cwd)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copied(recorded: Recorded, folder: Path, tree: Tree) -> Path:
    """A folder with the run, and ``out`` as ``tree`` has it."""
    for name in ("base", "run"):
        shutil.copytree(recorded.folder / name, folder / name)
    (folder / "out").mkdir()
    write_tree(tree, folder / "out")
    return folder


def test_a_kill_or_a_power_cut_leaves_all_of_the_export_or_nothing(recorded: Recorded) -> None:
    whole = contents(recorded.folder / "out" / "exported")
    assert {"model.safetensors", "tokenizer.json", "parity.json", "README.md", "client.py"} <= whole.keys()
    assert {case.fault for case in recorded.cases} == {"kill", *CUTS}
    found = {"nothing": 0, "all": 0}
    for case in recorded.cases:
        names = [name for name in recorded.tree(case) if name.partition("/")[0] == "exported"]
        tree = {name.partition("/")[2]: recorded.tree(case)[name] for name in names}
        files = {name: content for name, content in tree.items() if content is not None}
        assert files == whole or not names, f"{case.fault} before {case.what}"
        found["all" if names else "nothing"] += 1
    assert found["nothing"] > 100 and found["all"] > 1


def test_the_same_command_succeeds_after_a_kill(recorded: Recorded, command: Command, tmp_path: Path) -> None:
    """After the states of a sample, with what is left beside the output."""
    states = {case.state: case for case in recorded.cases if "exported" not in recorded.tree(case)}
    cases = sorted(states.values(), key=lambda case: case.number)
    for case in cases if ALL else [cases[len(cases) // 2], cases[-1]]:
        folder = copied(recorded, tmp_path / case.state, recorded.tree(case))
        done = command("export", *EXPORT, cwd=folder)
        assert done.returncode == 0, f"{case.fault} before {case.what}: {done.stderr}"
        assert contents(folder / "out" / "exported") == contents(recorded.folder / "out" / "exported")
        assert contents(folder / "run") == contents(recorded.folder / "run")
        shutil.rmtree(folder)


def numbers(recorded: Recorded, count: int) -> list[int]:
    """Operations from the first to the last one before the output has its name."""
    found = sorted({case.number for case in recorded.cases if "exported" not in recorded.tree(case)})
    return found if ALL else found[:: max(1, (len(found) - 1) // (count - 1))]


def test_a_killed_process_leaves_nothing_at_the_output(recorded: Recorded, program: Program, tmp_path: Path) -> None:
    """The states of the other tests are copies; here the process is killed indeed."""
    for number in numbers(recorded, 3):
        folder = copied(recorded, tmp_path / str(number), {})
        done = victim(program, folder, "kill", "out", str(number))
        assert done.returncode == -signal.SIGKILL
        assert all(path.suffix == ".tmp" for path in (folder / "out").iterdir())
        assert contents(folder / "run") == contents(recorded.folder / "run")
        shutil.rmtree(folder)


def test_a_failing_disk_is_one_line(recorded: Recorded, program: Program, tmp_path: Path) -> None:
    for number, code in zip(numbers(recorded, 3), [errno.ENOSPC, errno.EIO, errno.EROFS] * 100, strict=False):
        folder = copied(recorded, tmp_path / str(number), {})
        done = victim(program, folder, "fail", "out", str(number), str(code))
        assert done.returncode == 4 and "Traceback" not in done.stderr, f"{number}: {done.stderr}"
        assert done.stderr.splitlines()[-1].startswith("Error: ")
        assert not (folder / "out" / "exported").exists()
        assert contents(folder / "run") == contents(recorded.folder / "run")
        shutil.rmtree(folder)


def test_an_export_that_differs_leaves_nothing(recorded: Recorded, program: Program, tmp_path: Path) -> None:
    folder = copied(recorded, tmp_path / "strict", {})
    done = program("tests.faults.strict_export", *EXPORT, cwd=folder)
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith("Error: transformers computes something else from ids: ")
    assert list((folder / "out").iterdir()) == []
    assert contents(folder / "run") == contents(recorded.folder / "run")
