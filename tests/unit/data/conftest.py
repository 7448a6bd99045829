"""Fixtures of the data tests."""

import threading
from collections.abc import Iterator

import pytest

from llm_cls.data import download
from tests.unit.data.server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server; the waits between two attempts are short."""
    monkeypatch.setattr(download, "_MAX_WAIT_SECONDS", 0.01)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
