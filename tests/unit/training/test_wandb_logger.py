"""The identity of a W&B run, and W&B that does not answer; W&B itself is replaced."""

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import wandb

from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.schema import DataRecord, ModelRecord, RunRecord
from llm_cls.training import wandb_session
from llm_cls.training.wandb_logger import RunLogger, run_logger
from llm_cls.training.wandb_session import Service
from tests.unit.config.test_schema import parse

STARTED = "2026-01-01T00:00:00+00:00"


class Wandb:
    """Stands for W&B: keeps what it is called with; ``hangs`` names calls of a run that never return."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.arguments: list[list[str]] = []
        self.hangs: set[str] = set()
        self.codes: list[int] = []
        self.never = threading.Event()

    def init(self, **arguments: Any) -> Any:
        self.starts.append(arguments)
        self.arguments.append(sys.argv)
        self._block("init")
        run = Mock(offline=True, dir=str(Path(arguments["dir"]) / "wandb" / "offline-run-1-x" / "files"))
        run.log.side_effect = lambda *_, **__: self._block("log", Path(arguments["dir"]).name)
        run.finish.side_effect = lambda exit_code: (self._block("finish"), self.codes.append(exit_code))
        return run

    def _block(self, name: str, run: str = "a") -> None:
        if name in self.hangs and run == "a":
            self.never.wait()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wandb]:
    fake = Wandb()
    monkeypatch.setattr(wandb, "init", fake.init)
    monkeypatch.setattr(wandb_session, "end_service", Mock())
    yield fake
    fake.never.set()  # ends the abandoned threads


def record(started_at: str = STARTED) -> RunRecord:
    data = DataRecord(name="sample", digest="0", n_train=1, n_val=1, n_test=1, labels=["a"])
    return RunRecord(run_id="abc", data=data, model=ModelRecord(), started_at=started_at)


def log_once(directory: Path, record: RunRecord, *overrides: str) -> None:
    config = parse("experiment=quickstart", "logger=wandb", "logger.mode=offline", *overrides)
    with run_logger(config, RunDirectory(directory), record, Service()) as logger:
        assert logger.lightning
        logger.lightning.log_metrics({"val/f1": 0.5})


def test_a_resumed_run_continues_its_run_of_wandb(fake: Wandb, tmp_path: Path) -> None:
    for directory, begun in [("a", record()), ("a", record()), ("b", record()), ("a", record("2026-01-02"))]:
        log_once(tmp_path / directory, begun)
    ids = [start["id"] for start in fake.starts]
    assert ids[0] == ids[1] and len(set(ids)) == 3
    assert {start["resume"] for start in fake.starts} == {"allow"} and fake.codes == [0] * 4


def test_an_exported_identity_is_ignored_with_one_warning(
    fake: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_RESUME")
    for name in names:
        monkeypatch.setenv(name, "must")
    for directory in ("a", "b"):
        log_once(tmp_path / directory, record())
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert all(name in warning for name in names) and "logger.group=NAME" in warning
    assert not wandb_session.os.environ.keys() & set(names)
    assert len({start["id"] for start in fake.starts}) == 2 and {start["group"] for start in fake.starts} == {None}


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_run_continues_where_wandb_does_not_answer(
    fake: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    fake.hangs = {call}
    config = parse("experiment=quickstart", "logger=wandb", "logger.mode=offline", "logger.timeout_seconds=0.2")
    with run_logger(config, RunDirectory(tmp_path / "a"), record(), Service()) as logger:
        if logger.lightning:
            logger.lightning.log_metrics({"val/f1": 0.5})
            logger.lightning.log_metrics({"val/f1": 0.6})
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and "no end within 0.2 s" in warnings[0]
    if call == "finish":
        assert "Upload it with: wandb sync " in warnings[0] and "offline-run-1-x" in warnings[0]
    assert wandb_session.end_service.call_count == 1, "its process would be waited for at the end"  # type: ignore[attr-defined]


@pytest.mark.parametrize("runs", [True, False])
def test_wandb_that_does_not_answer_one_run_of_a_pass(
    fake: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    """It goes on for the other run, unless its process cannot answer that one either."""
    fake.hangs, service = {"log"}, Service()
    monkeypatch.setattr(wandb_session, "_is_running", lambda: runs)
    config = parse("experiment=quickstart", "logger=wandb", "logger.mode=offline", "logger.timeout_seconds=0.2")

    def log_loss(logger: RunLogger) -> None:
        assert logger.lightning
        logger.lightning.log_metrics({"train/loss": 0.5})

    with run_logger(config, RunDirectory(tmp_path / "b"), record(), service) as other:
        with run_logger(config, RunDirectory(tmp_path / "a"), record(), service) as logger:
            log_loss(logger)
            log_loss(other)
        log_loss(other)
        assert other.lightning and not other.lightning.failed
        assert wandb_session.end_service.call_count == (0 if runs else 1)  # type: ignore[attr-defined]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings[0] == "W&B failed, the run continues without it: no end within 0.2 s"
    if runs:
        assert len(warnings) == 2 and "did not answer. Upload it with: wandb sync " in warnings[1]
        assert fake.codes == [0], "it is not asked again for the run that it did not answer"
    assert wandb_session.end_service.call_count == 1, "its process would be waited for at the end"  # type: ignore[attr-defined]


def test_wandb_gets_no_secrets(fake: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://me:canary@h/x?token=canary"
    monkeypatch.setattr(sys, "argv", ["train", f"data.url={address}"])
    begun = record().model_copy(update={"overrides": [f"data.url={address}"]})
    log_once(tmp_path / "a", begun, f'+data.url="{address}"')
    assert "canary" not in repr([fake.starts, fake.arguments]) and repr(fake.starts).count("REDACTED") == 4
    assert sys.argv[1] == f"data.url={address}"
