"""The archive over a network that breaks, lies, or isn't there."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data.download import download
from llm_cls.data.sources.livedoor import load_livedoor
from llm_cls.errors import DataError
from tests.integration.conftest import write_archive

CONTENT = bytes(range(256)) * 2000


class Server(ThreadingHTTPServer):
    content = CONTENT
    honours_range = True
    cuts = 0  # answers that break off halfway
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/ldcc.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.honours_range else 0
        if server.status != 200 or start >= len(server.content):
            self.send_error(server.status if server.status != 200 else 416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        if server.cuts > 0:
            server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    download(server.url, tmp_path / "f", "-")
    assert (tmp_path / "f").read_bytes() == CONTENT
    starts = [int((asked or "=0-").rpartition("=")[2].rstrip("-")) for asked in server.ranges]
    assert len(starts) == 3 and 0 == starts[0] < starts[1] < starts[2], "what came is not asked for again"


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.cuts, server.honours_range = 1, False
    download(server.url, tmp_path / "f", "-")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_part_of_a_longer_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (len(CONTENT) + 5))
    download(server.url, tmp_path / "f", "-")
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404])
def test_refused(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DataError, match=f"the server answered {status}.*data.archive=PATH"):
        download(server.url, tmp_path / "f", "data.archive=PATH")
    assert len(server.ranges) == 1


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no connection.*data\.archive=PATH"):
        download("http://127.0.0.1:9/x", tmp_path / "f", "data.archive=PATH")


def test_corpus_is_fetched_once_by_several_and_again_when_damaged(server: Server, tmp_path: Path) -> None:
    server.content = write_archive(tmp_path / "a.tar.gz").read_bytes()
    config = DataConfig(name="livedoor", cache_dir=tmp_path / "cache", url=server.url)
    with ThreadPoolExecutor(3) as pool:
        digests = {corpus.digest for corpus in pool.map(load_livedoor, [config] * 3)}
    assert len(server.ranges) == 1 and len(digests) == 1
    cached = tmp_path / "cache" / "livedoor" / "ldcc.tar.gz"
    cached.write_bytes(cached.read_bytes()[:1000])
    assert load_livedoor(config).digest in digests and len(server.ranges) == 2


def test_what_is_no_archive_is_not_kept(server: Server, tmp_path: Path) -> None:
    config = DataConfig(name="livedoor", cache_dir=tmp_path, url=server.url)
    with pytest.raises(DataError, match="is not a whole"):
        load_livedoor(config)
    assert not [p for p in (tmp_path / "livedoor").iterdir() if not p.name.endswith(".lock")]
