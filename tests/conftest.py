"""Fixtures that all tests share, and those that run the real commands."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.compositions import remember_compositions
from tests.fork_server import ForkServer

Command = Callable[..., subprocess.CompletedProcess[str]]
Program = Callable[..., subprocess.CompletedProcess[str]]

TIMEOUT = 1200.0  # seconds; another process may take the cores

os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")  # servers that the tests themselves start

if not Path("/dev/nvidiactl").exists():  # without a GPU Triton's interpreter runs the kernels
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

remember_compositions()
gc.disable()  # until all modules are imported: what they make stays


def pytest_collection_finish() -> None:
    """Python would look through what the imports have made, again and again: a fifth of the time of all tests."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of materials beside the repository: real corpus, real tokenizer. A user's clone has none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared")
    return folder


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """``folder``, which ``make`` fills in the worker that needs it first. No test may change it."""
    with FileLock(f"{folder}.lock"):
        if not (made := Path(f"{folder}.made")).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


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
def server(environment: dict[str, str], common: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Gives each command a fork of a process that has imported torch and the others already."""
    server = ForkServer(tmp_path_factory.mktemp("server"), environment, common / "server")
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
