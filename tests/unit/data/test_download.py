"""Downloads over a network that loses connections, and from servers that refuse."""

import errno
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from llm_cls.data import download as module
from llm_cls.data.download import Limits, download
from llm_cls.errors import DataError
from tests.unit.data.server import CONTENT, Server

MAX_BYTES = len(CONTENT)
LIMITS = Limits(total_seconds=60, stall_seconds=30, max_bytes=MAX_BYTES)


def test_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    download(server.url, tmp_path / "f", LIMITS, "-")
    assert (tmp_path / "f").read_bytes() == CONTENT
    starts = [int((asked or "=0-").rpartition("=")[2].rstrip("-")) for asked in server.ranges]
    assert len(starts) == 3 and 0 == starts[0] < starts[1] < starts[2], "the part that arrived is not requested again"


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.cuts, server.honours_range = 1, False
    download(server.url, tmp_path / "f", LIMITS, "-")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_part_of_a_longer_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (len(CONTENT) + 5))
    download(server.url, tmp_path / "f", LIMITS, "-")
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404])
def test_refused(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DataError, match=f"the server answered {status}.*data.archive=PATH"):
        download(server.url, tmp_path / "f", LIMITS, "data.archive=PATH")
    assert len(server.ranges) == 1


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAIT_SECONDS", 0.01)
    with pytest.raises(DataError, match=r"no connection.*data\.archive=PATH"):
        download("http://127.0.0.1:9/x", tmp_path / "f", LIMITS, "data.archive=PATH")


@pytest.mark.parametrize("announces_length", [True, False])
def test_file_above_the_bound_is_refused_and_not_kept(server: Server, tmp_path: Path, announces_length: bool) -> None:
    server.announces_length = announces_length
    with pytest.raises(DataError, match=f"larger than {MAX_BYTES - 1} bytes.*data.archive=PATH"):
        download(server.url, tmp_path / "f", replace(LIMITS, max_bytes=MAX_BYTES - 1), "data.archive=PATH")
    assert not (tmp_path / "f").exists() and len(server.ranges) == 1


def test_file_without_length_is_downloaded(server: Server, tmp_path: Path) -> None:
    server.announces_length = False
    download(server.url, tmp_path / "f", LIMITS, "-")
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "limits", "reason"),
    [
        ("silent", {"stall_seconds": 0.2}, r"no byte arrived for 0.2 s \(data\.download_stall_seconds\)"),
        ("silent", {"total_seconds": 0.2}, r"it takes more than 0.2 s \(data\.download_timeout_seconds\)"),
        ("trickle", {"total_seconds": 0.2}, r"it takes more than 0.2 s \(data\.download_timeout_seconds\)"),
        ("headers", {"total_seconds": 0.2}, r"it takes more than 0.2 s \(data\.download_timeout_seconds\)"),
        ("endless", {}, f"larger than {MAX_BYTES} bytes"),
    ],
)
def test_a_server_without_end_is_given_up_and_nothing_is_kept(
    server: Server, tmp_path: Path, behaviour: str, limits: dict[str, float], reason: str
) -> None:
    server.behaviour, server.announces_length = behaviour, behaviour != "endless"
    (tmp_path / "f").write_bytes(CONTENT[:100])
    with pytest.raises(DataError, match=rf"{reason}.*data\.archive=PATH") as caught:
        download(f"{server.url}?token=canary", tmp_path / "f", replace(LIMITS, **limits), "data.archive=PATH")
    assert not list(tmp_path.iterdir()) and "canary" not in str(caught.value)


def test_nothing_is_kept_where_the_disk_is_full(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(CONTENT[:100])
    monkeypatch.setattr(module, "tqdm", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        download(server.url, tmp_path / "f", LIMITS, "-")
    assert not list(tmp_path.iterdir())
