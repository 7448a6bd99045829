"""Each fault of a user's gives one clear line and its exit code, and leaves nothing half-written."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_cls.hub import SHIPPED

from .conftest import SHIPPED_MODEL, TINY, Command, Program, write_archive


def check(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """One line for the user, and no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    for part in parts:
        assert part in done.stderr


@pytest.fixture
def train(command: Command, tmp_path: Path) -> Iterator[Command]:
    """The command in an empty folder, which must be as empty afterwards."""
    folder = tmp_path / "cwd"
    folder.mkdir()

    def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return command("train", "logger=none", *arguments, cwd=folder, **options)

    yield call
    assert not list(folder.rglob("*")), "nothing half-written"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model=rinna-3.6"], ["model=rinna-3.6", "Did you mean 'rinna-3.6b'?"]),
        (["template=7"], ["template=7", "0, 1, 2, text"]),
        (["lora.r=0"], ["lora.r must be >= 1, got 0. Try lora=r32."]),
        (["optimizer.lr=-1"], ["optimizer.lr must be > 0", "got -1", "Try optimizer.lr=5e-4"]),
        (["optimizer.lr=fast"], ["optimizer.lr must be a number, got 'fast'"]),
        (["optimizer.lrr=1e-3"], ["optimizer.lrr is not a key", "'optimizer.lr'"]),
        (["optimiser.lr=1e-3"], ["optimiser.lr is not a key", "'optimizer.lr'"]),
        (["modle=ja-mini"], ["modle is not a key", "'model'"]),
        (["+lora.rank=4"], ["lora.rank is not a key"]),
        (["model=hf"], ["model.name is missing"]),
        (["optimizer.lr=1e-3,1e-4"], ["optimizer.lr=1e-3,1e-4 has several values. Add --multirun"]),
        (["experiment=lr_curve"], ["This experiment is a grid. Add --multirun"]),
        (["data=table", "data.file=a.csv", "data.text=本文"], ["data.label is missing"]),
        (["trainer.num_nodes=2", "data=sample", "model=ja-mini"], ["trainer.num_nodes=2", "torchrun --nnodes=2"]),
        (["--multirun", "sweep.name=a,b"], ["sweep.name cannot be swept"]),
        (["--multirun", "seed='???'", "template=1,2"], ["seed is missing. Try seed=..."]),
        (["data=sample", "model=ja-mini", "model.tokenizer=./no/such"], ["model.tokenizer: './no/such'", "Check the"]),
        (["model=hf", "model.name=gpt2"], ["model.name: 'gpt2'", "hf download gpt2", "model.name=FOLDER"]),
    ],
)
def test_configuration(train: Command, arguments: list[str], parts: list[str]) -> None:
    check(train(*arguments), 2, *parts)


def test_torchrun_does_not_start_sweeps(train: Command) -> None:
    done = train("--multirun", "seed=1,2", env={"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "0", "RANK": "0"})
    check(done, 2, "Start it without torchrun or srun", "trainer.devices=N")


def test_more_processes_than_devices(train: Command) -> None:
    done = train("data=sample", "model=ja-mini", "trainer=cpu", env={"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"})
    check(done, 2, "torchrun or srun has started 2 processes", "trainer.devices=1", "make 1. Start that many")


def test_all_faults_at_once(train: Command) -> None:
    done = train("lora.r=0", "optimizer.lr=-1", "modle=x", "template=9", "seed=x", "trainer.epochs=3")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    for key in ("lora.r ", "optimizer.lr ", "modle ", "template=9 ", "seed ", "trainer.epochs "):
        assert sum(line.startswith(f"Error: {key}") for line in lines) == 1, (key, lines)
    assert len(lines) == 6


def test_model_not_cached_and_no_network(train: Command) -> None:
    done = train("model=rinna-3.6b")
    check(done, 2, "rinna/japanese-gpt-neox-3.6b", "hf download rinna/japanese-gpt-neox-3.6b", "model.name=FOLDER")


class EmptyHub(BaseHTTPRequestHandler):
    """A hub that has no model."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        if self.path != "/":
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        """Tells nobody."""


ONLINE = """
import os
from huggingface_hub import constants

constants.HF_HUB_OFFLINE, address = False, os.environ["HF_ENDPOINT"]  # it has read these variables when imported
constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
constants.ENDPOINT = address
from llm_cls.train import command
command()
"""


def test_model_unknown_to_the_hub(program: Program, tmp_path: Path) -> None:
    (tmp_path / "online.py").write_text(ONLINE)
    asked: list[str] = []

    class Hub(EmptyHub):
        def log_message(self, _: str, *what: object) -> None:
            asked.append(str(what[0]))

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        done = program("online", "model=hf", "model.name=no/such-model", "logger=none", cwd=tmp_path, env=hub)
        server.shutdown()
    check(done, 2, "model.name: the hub has no model 'no/such-model', or it is private. Check the id")
    assert any("no/such-model" in line for line in asked)
    left = [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"]  # of Python itself
    assert left == ["online.py"], "nothing half-written"


def test_damaged_weights(train: Command, tmp_path: Path) -> None:
    folder = shutil.copytree(SHIPPED["ja-mini"], tmp_path / "model")
    os.truncate(folder / "model.safetensors", 5_000_000)
    done = train("model=hf", f"model.name={folder}", "data=sample", "trainer=cpu", "trainer.progress_bar=false")
    check(done, 5, f"model.name: the weights of '{folder}' are damaged: ", "Download the model again")


def test_model_folder_without_a_model(train: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check(train("model=hf", f"model.name={tmp_path / 'empty'}"), 2, "model.name", "empty")


def test_more_tokens_than_positions(train: Command, archive: Path) -> None:
    done = train(*TINY, f"data.archive={archive}", "data.max_length=513")
    check(done, 2, "data.max_length must be <= 512", "got 513", "Try data.max_length=512")


def test_fewer_texts_than_a_batch(train: Command, archive: Path) -> None:
    done = train(*TINY, f"data.archive={archive}", "data.batch_size=128")
    check(done, 2, "data.batch_size must be <= the number of training texts (96), got 128", "Try data.batch_size=64")


def member(name: str, content: bytes = b"u\nd\nt\nb\n", kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
    return info, content


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (member("../evil.txt"), ["'../evil.txt' lies outside"]),
        (member("text/smax/smax-1.txt", b"", tarfile.SYMTYPE), ["'text/smax/smax-1.txt' is a link"]),
        (
            member("text/smax/smax-1.txt", b"u\nd\nt\n\xff\xfe\n"),
            ["bad.tar.gz: smax/smax-1.txt: must be UTF-8", "0xff", "Get the"],
        ),
        (
            member("text/smax/smax-1.txt", b""),
            ["bad.tar.gz: smax/smax-1.txt: the article is empty", "found 1 line. Get"],
        ),
        (member("text/lonely/lonely-1.txt"), ["bad.tar.gz: the label 'lonely' has 1 article, too few"]),
    ],
)
def test_archive_with_a_bad_member(
    train: Command, tmp_path: Path, extra: tuple[tarfile.TarInfo, bytes], parts: list[str]
) -> None:
    """One of each kind; all others are in the tests of the reader."""
    path = write_archive(tmp_path / "a.tar.gz", per_label=12)
    with tarfile.open(path) as old, tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as new:
        for info in old:
            new.addfile(info, old.extractfile(info))
        new.addfile(extra[0], io.BytesIO(extra[1]))
    check(train(*TINY, f"data.archive={tmp_path / 'bad.tar.gz'}"), 3, *parts)


def test_archive_cut_in_half_or_not_an_archive(train: Command, archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(content[: len(content) // 2])
    (tmp_path / "page.tar.gz").write_text("<html>404</html>")
    for name in ("half.tar.gz", "page.tar.gz"):
        check(train(*TINY, f"data.archive={tmp_path / name}"), 3, name, "is not a complete .tar.gz archive")


def test_no_network_for_the_corpus(train: Command) -> None:
    done = train("model=ja-mini", "data.url=http://127.0.0.1:9/ldcc.tar.gz")
    assert done.returncode == 3 and "data.archive=PATH" in done.stderr.splitlines()[-1]


TABLE = [*TINY, "data=table", "data.text=text", "data.label=label"]


@pytest.mark.parametrize(
    ("rows", "arguments", "parts"),
    [
        ("txet,label\nあ,x\n", [], ["no column 'text'", "Did you mean 'txet'?", "data.text=COLUMN"]),
        ("text,label\n" + "い,x\n" * 30 + "あ,y\n", [], ["label 'y' has 1 text", "at least 3"]),
        ('text,label\nあ,x\n"",y\n', [], ["row 2 of column 'text' is empty"]),
        ("text,label\nあ,x\nい,x\nう,x\n", [], ["at least two labels"]),
    ],
)
def test_table(train: Command, tmp_path: Path, rows: str, arguments: list[str], parts: list[str]) -> None:
    (tmp_path / "t.csv").write_text(rows, encoding="utf-8")
    check(train(*TABLE, f"data.file={tmp_path / 't.csv'}", *arguments), 3, *parts)


def test_label_that_training_never_saw(train: Command, tmp_path: Path) -> None:
    rows = "text,label\n" + "".join(f"文{i},{'xy'[i % 2]}\n" for i in range(20))
    for name, more in (("train", ""), ("val", ""), ("test", "謎,z\n")):
        (tmp_path / f"{name}.csv").write_text(rows + more, encoding="utf-8")
    files = [f"data.{name}_file={tmp_path / name}.csv" for name in ("train", "val", "test")]
    check(train(*TABLE, *files), 3, "test.csv: row 21", "'z'", "no training text")


def test_a_refused_run_does_not_block_the_directory(train: Command) -> None:
    """What fits no layer is known only when the model is there; then nothing may stay behind either."""
    for modules in ("nosuch", "[query_key_value,nosuch]"):
        done = train(
            "model=ja-mini", "data=sample", f"lora.target_modules={modules}", "hydra.run.dir=run", "trainer=cpu"
        )
        assert done.returncode == 2, done.stderr
        last = done.stderr.splitlines()[-1]
        assert "nosuch" in last and "query_key_value" in last and "Traceback" not in done.stderr


def test_out_of_memory(train: Command, archive: Path) -> None:
    """An embedding of 16 TB: no machine has the memory."""
    large = ["model=open-calm-7b", "model.weights=random", "model.architecture.vocab_size=1000000000"]
    done = train(*large, f"data.archive={archive}", "trainer=cpu", "hydra.run.dir=run")
    check(done, 4, "Out of memory: ", " bytes more were needed", "Try a smaller data.micro_batch_size")


def test_output_folder_that_cannot_be_created(train: Command) -> None:
    check(
        train("data=sample", "hydra.run.dir=/dev/null"), 4, "/dev/null: File exists. Check the path: a file is where a"
    )
    check(train("data=sample", f"hydra.run.dir={'x' * 300}"), 4, "File name too long. Check the path")


def test_output_folder_that_cannot_be_written(command: Command, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = command("train", *TINY, f"data.archive={archive}", "hydra.run.dir=file/run", cwd=tmp_path)
    check(done, 4, "file/run: Not a directory. Check the path: a file is where a folder must be")


def test_a_refused_run_removes_only_what_was_created_for_it(command: Command, tmp_path: Path) -> None:
    """Whatever Hydra is told to create beside the run directory, and whoever owns the folders above it."""
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for more in (
        ["hydra.run.dir=mine/empty"],
        ["hydra.run.dir=mine/empty/new/run"],
        ["hydra.output_subdir=.hydra"],
        ["hydra.output_subdir=a/b", "hydra.run.dir=mine"],
        ["hydra.job.chdir=true"],
        ["hydra.job.chdir=true", "hydra.output_subdir=a", "hydra.run.dir=mine/run"],
    ):
        check(command("train", "seed=x", *more, cwd=tmp_path), 2, "seed must be a whole number")
        assert sorted(tmp_path.rglob("*")) == before, more


def test_a_file_where_the_folder_of_a_sweep_belongs(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "file/sweep"):
        done = command("train", "-m", f"hydra.sweep.dir={folder}", "seed=1,2", *TINY, "data=sample", cwd=tmp_path)
        check(done, 4, f"{folder}: ", "Check the path: a file is where a folder must be")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_too_few_open_files(environment: dict[str, str], tmp_path: Path) -> None:
    """One process needs few of them, and several processes say so before they begin."""
    program = f"ulimit -n 20; exec {sys.executable} -m llm_cls.train " + '"$@"'
    arguments = [*TINY, "data=sample", "logger=none", "trainer.devices=2"]
    line = ["bash", "-c", program, "train", *arguments]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    check(done, 4, "needs 64 open files per process, this shell allows 20")
    assert not list(tmp_path.rglob("*"))


@pytest.mark.slow
def test_a_locale_without_utf8(command: Command, environment: dict[str, str], tmp_path: Path) -> None:
    """Japanese texts, labels and columns are read and written as UTF-8; what cannot be shown is escaped."""
    rows = "".join(f"{'猫犬'[i % 2]}の話{i},{'猫犬'[i % 2]}\n" for i in range(60))
    (tmp_path / "t.csv").write_text("text,ラベル\n" + rows, encoding="utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    line = ["data=table", "data.file=t.csv", "data.text=text", "trainer.max_epochs=1", "hydra.run.dir=run"]
    refused = command("train", *line, "data.label=ラベル", cwd=tmp_path, env=locale, fresh=True)
    check(
        refused,
        2,
        r"data.label=\u30e9\u30d9\u30eb cannot be encoded in this locale, which is not UTF-8. Set PYTHONUTF8=1",
    )
    (tmp_path / "t.csv").write_text("text,label\n" + rows, encoding="utf-8")
    done = command("train", *TINY, *line, "data.label=label", cwd=tmp_path, env=locale, fresh=True)
    assert done.returncode == 0, done.stderr
    done = command("predict", "run=run", "input=t.csv", "output=o.csv", cwd=tmp_path, env=locale, fresh=True)
    assert done.returncode == 0 and (tmp_path / "o.csv").read_bytes().startswith(b"text,label,predicted_label,conf")
    (tmp_path / "wrong.csv").write_text("テキスト\n猫\n", encoding="utf-8")
    done = command("predict", "run=run", "input=wrong.csv", "output=o.csv", cwd=tmp_path, env=locale, fresh=True)
    check(done, 3, r"has no column 'text'. It has '\u30c6\u30ad\u30b9\u30c8'")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KB."""
    yield from mounted_disk(tmp_path / "disk", "600k")


@pytest.fixture
def large_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that has room for some runs."""
    yield from mounted_disk(tmp_path / "disk", "100m")


def mounted_disk(disk: Path, size: str) -> Iterator[Path]:
    """A file system of its own; only root may mount it."""
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(command: Command, archive: Path, tmp_path: Path, small_disk: Path) -> None:
    """The checkpoint of the first epoch does not fit."""
    done = command(
        "train", *SHIPPED_MODEL, f"data.archive={archive}", "logger=none", "hydra.run.dir=disk/run", cwd=tmp_path
    )
    check(
        done, 4, "disk/run/checkpoints/epoch-0001.ckpt: No space left on device. Free some space, or write to another"
    )
    assert not list(small_disk.iterdir()), "nothing half-written"


def test_read_only_disk(command: Command, archive: Path, tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = command("train", *TINY, f"data.archive={archive}", "logger=none", "hydra.run.dir=disk/run", cwd=tmp_path)
    check(done, 4, "disk/run: Read-only file system. Write to another folder")


def test_a_finished_sweep_on_a_read_only_disk(command: Command, tmp_path: Path, large_disk: Path) -> None:
    sweep = [*TINY, "data=sample", "trainer.max_epochs=1", "logger=none", "hydra.sweep.dir=disk/sweep"]
    line = ("-m", *sweep, "data.limit=16", "seed=1,2")
    first = command("train", *line, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    subprocess.run(["mount", "-o", "remount,ro", str(large_disk)], check=True)
    again = command("train", *line, cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.count("is already finished") == 2, again.stdout + again.stderr
    larger = command("train", *line[:-1], "seed=1,2,3", cwd=tmp_path)
    check(larger, 4, "disk/sweep/.sweep.jsonl.lock: Read-only file system")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(command: Command, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = command("train", *TINY, f"data.archive={archive}", "hydra.run.dir=locked/run", cwd=tmp_path)
    assert done.returncode == 4 and done.stderr.count("\n") == 1, done.stderr
