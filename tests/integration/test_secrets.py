"""User, password and token of ``data.url`` reach the server, and nothing that is written or printed."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.data.server import Server

from .conftest import TINY, Command
from .processes import sweep_states

USER, PASSWORD, TOKEN, KEY = "canaryuser", "canarypassword", "canarytoken", "canarykey"
CANARIES = (USER, PASSWORD, TOKEN, KEY)


@pytest.fixture
def source(archive: Path) -> Iterator[Server]:
    """A server with the small corpus."""
    server = Server()
    server.content = archive.read_bytes()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def override(server: Server, token: str = TOKEN) -> str:
    """``data.url`` with secrets, as one types it for Hydra."""
    address = server.url.removeprefix("http://")
    return f'data.url="http://{USER}:{PASSWORD}@{address}?token={token}&part=1"'


def assert_hidden(folder: Path, *texts: str) -> None:
    """No canary in any file or name below ``folder``, or in ``texts``."""
    paths = list(folder.rglob("*"))
    assert paths
    for canary in CANARIES:
        assert not [path for path in paths if canary in str(path.relative_to(folder))]
        assert not [path for path in paths if path.is_file() and canary.encode() in path.read_bytes()]
        assert not [text for text in texts if canary in text]


def test_a_run_shows_no_secrets(command: Command, source: Server, tmp_path: Path) -> None:
    line = [*TINY, "trainer.max_epochs=1", "logger=wandb", "hydra.run.dir=run", "data.cache_dir=cache"]
    line += [f"+hydra.job.env_set.SOME_API_KEY={KEY}"]
    done = command("train", *line, override(source), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert source.credentials == [f"{USER}:{PASSWORD}"] and TOKEN in source.paths[0], "the request has the true address"
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    overrides = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["overrides"]
    assert any("data.url=" in text and "REDACTED" in text for text in overrides)
    again = command("train", *line, override(source, "canarytoken2"), cwd=tmp_path)
    assert again.returncode == 0 and "is already finished" in again.stdout, again.stderr
    report = command("report", "dir=run", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert_hidden(tmp_path, done.stdout, done.stderr, again.stdout, again.stderr, report.stdout)


@pytest.mark.parametrize("isolate", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_a_sweep_shows_no_secrets(command: Command, source: Server, tmp_path: Path, isolate: str) -> None:
    """The secrets are swept as well, with another token when the sweep is repeated.

    A run in its own process has only the stored address.
    """
    line = [
        "--multirun",
        *TINY,
        "trainer.max_epochs=1",
        "hydra.sweep.dir=sweep",
        "data.cache_dir=cache",
        "logger=wandb",
    ]
    line += [f"sweep.isolate={isolate}"]
    url = override(source)
    outputs = []
    for token in (TOKEN, "canarytoken2"):
        swept = f"{url},{url.partition('=')[2].replace('part=1', 'part=2')}".replace(TOKEN, token)
        done = command("train", *line, swept, f"+hydra.job.env_set.SOME_API_KEY={KEY}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        outputs += [done.stdout, done.stderr]
        assert [state.name for state in sweep_states(tmp_path / "sweep").values()] == ["finished", "finished"]
    assert outputs[2].count("Best epoch") == 0 and len(source.paths) == 2
    assert_hidden(tmp_path, *outputs)


@pytest.mark.parametrize("fault", ["missing", "damaged", "unreachable", "flags"])
def test_failures_show_no_secrets(command: Command, source: Server, tmp_path: Path, fault: str) -> None:
    source.status = 404 if fault == "missing" else 200
    source.content = source.content[:1000]
    url = override(source)
    line = [*TINY, "logger=none", "data.cache_dir=cache", "sweep.retries=0"]
    if fault == "unreachable":
        url = url.replace(f":{source.server_port}/", ":9/")
    done = command("train", *line, url, "hydra.run.dir=run", *["--cfg=job"] * (fault == "flags"), cwd=tmp_path)
    assert (done.returncode, done.stderr == "") == ((0, True) if fault == "flags" else (3, False))
    assert "REDACTED" in done.stdout + done.stderr
    failed = command("train", "--multirun", *line, url, "hydra.sweep.dir=sweep", "seed=1,2", cwd=tmp_path)
    assert failed.returncode == 6, failed.stderr
    assert_hidden(tmp_path, done.stdout, done.stderr, failed.stdout, failed.stderr)
