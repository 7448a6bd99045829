"""Downloads over a network that loses connections, and from servers that refuse."""

from pathlib import Path

import pytest

from llm_cls.data import download as module
from llm_cls.data.download import download
from llm_cls.errors import DataError
from tests.unit.data.server import CONTENT, Server

MAX_BYTES = len(CONTENT)


def test_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    download(server.url, tmp_path / "f", MAX_BYTES, "-")
    assert (tmp_path / "f").read_bytes() == CONTENT
    starts = [int((asked or "=0-").rpartition("=")[2].rstrip("-")) for asked in server.ranges]
    assert len(starts) == 3 and 0 == starts[0] < starts[1] < starts[2], "the part that arrived is not requested again"


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.cuts, server.honours_range = 1, False
    download(server.url, tmp_path / "f", MAX_BYTES, "-")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_part_of_a_longer_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (len(CONTENT) + 5))
    download(server.url, tmp_path / "f", MAX_BYTES, "-")
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404])
def test_refused(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DataError, match=f"the server answered {status}.*data.archive=PATH"):
        download(server.url, tmp_path / "f", MAX_BYTES, "data.archive=PATH")
    assert len(server.ranges) == 1


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAIT_SECONDS", 0.01)
    with pytest.raises(DataError, match=r"no connection.*data\.archive=PATH"):
        download("http://127.0.0.1:9/x", tmp_path / "f", MAX_BYTES, "data.archive=PATH")


@pytest.mark.parametrize("announces_length", [True, False])
def test_file_above_the_bound_is_refused_and_not_kept(server: Server, tmp_path: Path, announces_length: bool) -> None:
    server.announces_length = announces_length
    with pytest.raises(DataError, match=f"larger than {MAX_BYTES - 1} bytes.*data.archive=PATH"):
        download(server.url, tmp_path / "f", MAX_BYTES - 1, "data.archive=PATH")
    assert not (tmp_path / "f").exists() and len(server.ranges) == 1


def test_file_without_length_is_downloaded(server: Server, tmp_path: Path) -> None:
    server.announces_length = False
    download(server.url, tmp_path / "f", MAX_BYTES, "-")
    assert (tmp_path / "f").read_bytes() == CONTENT
