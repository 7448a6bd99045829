"""The real commands, on a small corpus in the official layout."""

import io
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import TIMEOUT, Command, Program, made_once
from tests.fork_server import ForkedProcess, ForkServer
from tests.small_model import SMALL_MODEL

__all__ = ["GRID", "NAMES", "SHIPPED_MODEL", "TIMEOUT", "TINY", "WORDS", "Command", "Program", "Start", "write_archive"]

Start = Callable[..., ForkedProcess]

SETTINGS = [
    "data.max_length=16",
    "data.batch_size=16",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.progress_bar=false",
    "optimizer.lr=2e-3",
    "lora.r=4",
    "lora.target_modules=all-linear",
]
TINY = [*SMALL_MODEL, *SETTINGS]
SHIPPED_MODEL = ["model=ja-mini", *SETTINGS]

GRID = ["optimizer.lr=1e-3,2e-3", "template=1,2"]
NAMES = sorted(f"optimizer.lr={lr},template={t}" for lr in ("0.001", "0.002") for t in (1, 2))

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
def archive(common: Path) -> Path:
    """120 articles with three labels."""
    return made_once(common / "corpus", lambda folder: write_archive(folder / "tiny.tar.gz")) / "tiny.tar.gz"


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
def finished_run(command: Command, archive: Path, common: Path) -> Path:
    """The directory of one finished run of the model that is shipped, with W&B offline."""

    def train(folder: Path) -> None:
        done = command("train", *SHIPPED_MODEL, f"data.archive={archive}", "hydra.run.dir=run", cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "stdout.txt").write_text(done.stdout + done.stderr, encoding="utf-8")

    return made_once(common / "work", train) / "run"


@pytest.fixture
def sweep(archive: Path) -> list[str]:
    return ["--multirun", *TINY, f"data.archive={archive}", "logger=none", "hydra.sweep.dir=sweep"]


@pytest.fixture(scope="session")
def undisturbed(command: Command, archive: Path, common: Path) -> Path:
    """A sweep of four runs that nothing disturbed."""

    def train(folder: Path) -> None:
        line = ["--multirun", *TINY, *GRID, f"data.archive={archive}", "logger=none", "sweep.name=grid"]
        done = command("train", *line, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "4 of 4 runs are done" in done.stdout and " left" in done.stdout
        lines = done.stdout.splitlines()
        assert sorted(line for line in lines if "template=" in line) == [f"Run {name}" for name in NAMES], (
            "what differs"
        )
        assert lines[-3:] == [
            "Next:",
            *(f"  python -m llm_cls.{name} dir=outputs/sweeps/grid" for name in ("status", "report")),
        ]

    return made_once(common / "undisturbed", train) / "outputs" / "sweeps" / "grid"
