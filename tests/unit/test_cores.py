"""Threads wait asleep where other processes use the cores, unless the user has decided."""

import os
from pathlib import Path

import pytest

from llm_cls import cores

DECISIONS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if key not in DECISIONS})


@pytest.mark.parametrize(
    ("content", "elsewhere"),
    [("0.20 0.18 0.12 1/80 11206", 0), ("2.0 1.5 1.0 4/80 11206", 3), ("0 0 0 0/80 1", 0), ("", 0), ("a b c d", 0)],
)
def test_what_the_system_says(tmp_path: Path, content: str, elsewhere: int) -> None:
    (tmp_path / "loadavg").write_text(content, encoding="ascii")
    assert cores.threads_elsewhere(tmp_path / "loadavg") == elsewhere
    assert cores.threads_elsewhere(tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("own", "elsewhere", "sleeps"), [("2", 0, False), ("2", 1, True), ("1", 9, False), ("", 1, True), ("", 0, False)]
)
def test_threads_sleep_where_the_cores_are_used(
    own: str, elsewhere: int, sleeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "threads_elsewhere", lambda: elsewhere)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    os.environ["OMP_NUM_THREADS"] = own
    cores.share_cores()
    assert (os.environ.get("OMP_WAIT_POLICY") == "PASSIVE") is sleeps


@pytest.mark.parametrize("decision", DECISIONS)
def test_the_user_decides(decision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "threads_elsewhere", lambda: 9)
    os.environ[decision] = "1"
    before = dict(os.environ)
    cores.share_cores()
    assert dict(os.environ) == before
