"""Starts a W&B run under an identity of its own, and ends W&B's process where it does not answer."""

import logging
import netrc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from llm_cls.bounded import call_within
from llm_cls.config.schema import Config
from llm_cls.errors import first_line
from llm_cls.files import sha256_json
from llm_cls.redaction import redact
from llm_cls.runs.content import plain
from llm_cls.runs.schema import RunRecord
from llm_cls.signals import is_stopped

log = logging.getLogger(__name__)

_INIT_SECONDS = 30.0  # for the server to answer; then the run is logged offline
_TEARDOWN_SECONDS = 5.0
# Set for a whole shell, they would make one W&B run or group of all runs that are started there.
_IDENTITY = ("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM")


class Service:
    """W&B's process, which the runs of this process share, some of them at the same time."""

    def __init__(self) -> None:
        """Starts nothing."""
        self._runs = 0
        self._given_up = False

    @contextmanager
    def used(self) -> Iterator[None]:
        """The time in which a run may use it; it ends with the last run, if one has given it up."""
        self._runs += 1
        try:
            yield
        finally:
            self._runs -= 1
            if self._given_up and not self._runs:
                self._end()

    def give_up(self) -> bool:
        """Called by a run that it did not answer, or refused. Ends it, unless it may still answer other runs.

        Returns:
            Whether it was ended.
        """
        self._given_up = True
        if self._runs > 1 and _is_running():
            return False
        self._end()
        return True

    def _end(self) -> None:
        self._given_up = False
        end_service()


def start(config: Config, directory: Path, record: RunRecord, service: Service) -> Any:
    """The W&B run of the run in ``directory``, the same one when it is resumed; None where W&B could not be started."""
    modes = ["offline"]
    if config.logger.mode == "online" or (config.logger.mode == "auto" and _has_key()):
        modes = ["online", "offline"]
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        modes = [os.environ["WANDB_MODE"]]
    _ignore_identity()
    seconds = config.logger.timeout_seconds
    for mode in modes:
        try:
            return call_within(seconds, partial(_init, mode, config, directory, record))
        except Exception as error:  # no error of W&B may stop the training
            log.warning("W&B could not be started %s: %s", mode, first_line(error))
            service.give_up()
    return None


def wandb_id(directory: Path, record: RunRecord) -> str:
    """The id of the W&B run: that of the first start, which stays on record, and different in another directory."""
    return sha256_json([record.run_id, record.started_at, directory.name])[:16]


def end_service() -> None:
    """Ends W&B's process, which may be dead or stopped: nothing waits for it, and the next run starts another."""
    import wandb

    with suppress(Exception):  # wandb.teardown would wait for the end of a stopped process
        _process().kill()
    with suppress(Exception, SystemExit):
        call_within(_TEARDOWN_SECONDS, wandb.teardown)


def _is_running() -> bool:
    """Whether W&B's process lives and was not stopped; False where it cannot be found."""
    try:
        process = _process()
        return process.poll() is None and not is_stopped(process.pid)
    except Exception:  # it was not started, or another version of W&B starts it in another way
        return False


def _process() -> Any:
    from wandb.sdk import wandb_setup

    service: Any = wandb_setup.singleton()._connection
    return service._proc._process


def _init(mode: str, config: Config, directory: Path, record: RunRecord) -> Any:
    import wandb

    settings = wandb.Settings(
        mode=mode, silent=True, console="off", init_timeout=_INIT_SECONDS, disable_git=True,
        reinit="create_new",  # several runs of a sweep may train at the same time
    )  # fmt: skip
    with _redacted_arguments():
        return wandb.init(
            id=wandb_id(directory, record),
            resume="allow",
            name=directory.name,
            dir=str(directory),
            project=config.logger.project,
            entity=config.logger.entity,
            group=config.logger.group,
            tags=config.logger.tags,
            config={**config.model_dump(mode="json"), "run": plain(record)},
            settings=settings,
        )


def _ignore_identity() -> None:
    """Removes the variables that would give several runs one identity."""
    if found := [name for name in _IDENTITY if os.environ.pop(name, None) is not None]:
        log.warning(
            "Ignored in the environment: %s. Every run has its own W&B run; logger.group=NAME groups them",
            ", ".join(found),
        )


@contextmanager
def _redacted_arguments() -> Iterator[None]:
    """Hides the secrets of the command line from W&B, which stores it."""
    arguments = sys.argv
    sys.argv = list(map(redact, arguments))
    try:
        yield
    finally:
        sys.argv = arguments


def _has_key() -> bool:
    """Whether an API key is in the environment, the settings or ``.netrc``; never asks for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or "api.wandb.ai"
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
