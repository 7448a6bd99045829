"""The real commands, on a small corpus in the official layout."""

import io
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fork_server import ForkedProcess, ForkServer

Command = Callable[..., subprocess.CompletedProcess[str]]
Program = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., ForkedProcess]

TINY = [
    "model=ja-mini",
    "data.max_length=32",
    "data.batch_size=16",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.progress_bar=false",
    "optimizer.lr=2e-3",
    "lora.r=4",
    "lora.target_modules=all-linear",
]

TIMEOUT = 1200.0  # seconds; another process may take the cores

WORDS = {
    "movie-enter": "映画 監督 公開 俳優 劇場 上映 主演 脚本 作品 予告",
    "smax": "端末 通信 画面 電池 回線 機種 充電 契約 料金 搭載",
    "sports-watch": "試合 選手 優勝 監督 得点 野球 代表 敗退 記録 球団",
}


def article(label: str, draw: random.Random) -> bytes:
    """An article of words that are typical of its label, and of some that are not."""
    words = WORDS[label].split()
    other = random.Random(draw.random()).choice(list(WORDS.values())).split()
    line = "、".join(draw.choices(words, k=8) + draw.choices(other, k=3))
    return (
        f"http://example.com/\n2012-01-01T00:00:00+0900\n{draw.choice(words)}の話題\n{line}。\n\n　{line}！\n".encode()
    )


def write_archive(path: Path, per_label: int = 40) -> Path:
    """A corpus in the layout of the livedoor archive."""
    draw = random.Random(0)
    with tarfile.open(path, "w:gz") as archive:
        for label in WORDS:
            for i in range(per_label):
                content = article(label, draw)
                member = tarfile.TarInfo(f"text/{label}/{label}-{i:04d}.txt")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 articles with three labels."""
    return write_archive(tmp_path_factory.mktemp("corpus") / "tiny.tar.gz")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user's environment: own caches, no network settings, no W&B key."""
    home = tmp_path_factory.mktemp("home")
    other = ("WANDB", "HYDRA", "HF_", "LLM_CLS", "SLURM", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "NETRC")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(other)}
    own = {"HOME": str(home), "LLM_CLS_CACHE": str(home / "cache"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hf")}
    # OpenMP's threads wait in a loop: two processes on the same cores would be thirty times as slow as alone.
    return {"GOMP_SPINCOUNT": "1000"} | kept | own


@pytest.fixture(scope="session")
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Gives each command a fork of a process that has imported torch and the others already."""
    server = ForkServer(tmp_path_factory.mktemp("server"), environment)
    yield server
    server.close()


@pytest.fixture(scope="session")
def program(server: ForkServer, environment: dict[str, str]) -> Program:
    """Runs ``python -m MODULE ARGUMENTS`` in ``cwd``, in a fork."""

    def call(
        module: str, *arguments: str, cwd: Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        process = server.start(module, arguments, cwd, environment | (env or {}))
        return subprocess.CompletedProcess(arguments, process.wait(TIMEOUT), *process.communicate())

    return call


@pytest.fixture(scope="session")
def command(program: Program, environment: dict[str, str]) -> Command:
    """Runs ``python -m llm_cls.NAME ARGUMENTS`` in ``cwd``: in a fork, or in a fresh process where that matters."""

    def call(
        name: str, *arguments: str, cwd: Path, env: dict[str, str] | None = None, fresh: bool = False
    ) -> subprocess.CompletedProcess[str]:
        if not fresh:
            return program(f"llm_cls.{name}", *arguments, cwd=cwd, env=env)
        line = [sys.executable, "-m", f"llm_cls.{name}", *arguments]
        variables = environment | (env or {})
        return subprocess.run(line, cwd=cwd, env=variables, capture_output=True, text=True, timeout=TIMEOUT)

    return call


@pytest.fixture
def start(server: ForkServer, environment: dict[str, str]) -> Iterator[Start]:
    """Starts ``llm_cls.train`` in the background, and ends it with the test."""
    started: list[ForkedProcess] = []

    def call(*arguments: str, cwd: Path, env: dict[str, str] | None = None, own_group: bool = False) -> ForkedProcess:
        process = server.start("llm_cls.train", arguments, cwd, environment | (env or {}), own_group)
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def finished_run(command: Command, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one finished run, with W&B offline."""
    folder = tmp_path_factory.mktemp("work")
    done = command("train", *TINY, f"data.archive={archive}", "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder / "run"
