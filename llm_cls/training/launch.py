"""One process per device.

Lightning starts the other ranks by rerunning ``sys.argv``, which under ``--multirun`` makes every rank
run its own whole sweep. Here the run that Hydra composed writes ``config.yaml``, and every rank is a fresh
process that reads that file: one configuration by construction, in a sweep as in a single run.

torch's elastic launcher would start the ranks as well, but leaves them running when it is killed itself, ends them
after a fixed grace period whatever further signals arrive, and cannot tell which rank keeps the others waiting.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from llm_cls.cli import shown_path
from llm_cls.errors import (
    EXIT_INTERRUPTED,
    EXIT_UNEXPECTED,
    ConfigError,
    LostRankError,
    RankError,
    ResourceError,
    RunInterrupted,
)
from llm_cls.runs.directory import RunDirectory
from llm_cls.signals import handled_signals, interrupted_by, is_stopped

PARENT = "LLM_CLS_PARENT"  # id of the process that started a rank; the rank ends with it
EXIT_LOST = 76  # of a rank that has lost another one; only this module sees it
_GRACE_SECONDS = 30.0  # for the ranks to finish their W&B runs
_POLL_SECONDS = 0.05
_OUT_OF_MEMORY = (
    ", as happens when the system runs out of main memory. Try fewer trainer.devices or a smaller data.micro_batch_size"
)
_OPEN_FILES = 64  # of each rank: its files, and the sockets to the others


_NUMBERS = {
    "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "NODE_RANK": 0, "GROUP_RANK": 0,
    "MASTER_PORT": 1, "SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NODEID": 0, "SLURM_NTASKS": 1,
    "SLURM_STEP_NUM_TASKS": 1,
}  # fmt: skip


def check_launcher() -> None:
    """Checks the variables that torchrun and srun set, which this package, Lightning and torch read as numbers.

    Raises:
        ConfigError: A value is not a number that they would set.
    """
    for name, least in _NUMBERS.items():
        value = os.environ.get(name)
        if value is not None and not (re.fullmatch("[0-9]{1,9}", value) and int(value) >= least):
            raise ConfigError(
                f"{name} must be a whole number >= {least}, got {value!r}. Unset this variable of the environment: "
                "torchrun and srun set it themselves"
            )
    ranks, rank = launched_world_size(), _rank()
    if rank >= (ranks or 1) and (ranks is not None or "RANK" in os.environ):
        raise ConfigError(
            f"RANK={rank} needs LOCAL_RANK and a larger WORLD_SIZE. Start the processes with torchrun, or unset RANK"
        )


def is_first_process() -> bool:
    """Whether this is the only process of its run, or the one of them that writes."""
    return _rank() == 0


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def launched_world_size() -> int | None:
    """The number of ranks that torchrun, srun or ``launch_ranks`` has started, this process included; None otherwise.

    A SLURM job with several tasks does not count by itself: only srun starts them.
    """
    if "LOCAL_RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return tasks if tasks > 1 else None


def usable_cores() -> int:
    """The processor cores that this process may use; a container or a cluster's job may have fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def launch_ranks(directory: Path, devices: int, timeout_seconds: float) -> None:
    """Runs ``llm_cls.training.rank`` once per device and waits for all of them.

    If one fails, the others are ended: they would wait for it forever.

    Args:
        directory: The run directory.
        devices: The number of ranks.
        timeout_seconds: After which the ranks themselves give up waiting for one another.

    Raises:
        RunInterrupted: This process or a rank received a signal.
        LostRankError: A rank was killed or does not respond; the message names it.
        RankError: A rank failed.
        ResourceError: The ranks could not open their files and sockets, at which torch fails in many ways.
    """
    _check_open_files()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # OMP_NUM_THREADS is for the whole run: more threads than cores would wait for one another.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(threads) if threads.isdecimal() else usable_cores()
    # Without SLURM's variables, from which Lightning would conclude that SLURM has started the ranks.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    base = inherited | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(devices),
        "NODE_RANK": "0",
        PARENT: str(os.getpid()),
        "OMP_NUM_THREADS": str(max(1, cores // devices)),
    }
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)

    handlers = {number: signal.signal(number, interrupt) for number in handled_signals()}
    failure: BaseException | None = None
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(devices):
            command = [sys.executable, "-m", "llm_cls.training.rank", str(directory)]
            # In a new session, so that Ctrl-C reaches only this process, which then ends the ranks together.
            environment = base | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(subprocess.Popen(command, env=environment, start_new_session=True))
        failure = _failure(ranks, _wait(ranks, received, timeout_seconds), timeout_seconds)
    finally:
        _end(ranks, received)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise interrupted_by(received[0])
    if failure is not None:
        raise failure


def _wait(ranks: Sequence[subprocess.Popen[bytes]], received: list[int], patience: float) -> list[int | None]:
    """Waits until all ranks have ended or the fault of one is known; the exit codes, None for a rank that runs.

    A rank that has lost another ends with EXIT_LOST. The other one then ends as well, with the exit code that counts,
    or it does not respond.
    """
    deadline = None
    while True:
        codes = [rank.poll() for rank in ranks]
        if received or None not in codes or set(codes) - {None, 0, EXIT_LOST}:
            return codes
        if EXIT_LOST in codes:
            deadline = deadline or time.monotonic() + min(_GRACE_SECONDS, patience)
            running = [rank for rank, code in zip(ranks, codes, strict=True) if code is None]
            if time.monotonic() > deadline or all(is_stopped(rank.pid) for rank in running):
                return codes
        time.sleep(_POLL_SECONDS)


def _failure(
    ranks: Sequence[subprocess.Popen[bytes]], codes: Sequence[int | None], timeout_seconds: float
) -> RunInterrupted | LostRankError | RankError | None:
    """Why the run failed, from the exit codes of its ranks; None if it did not."""
    ended: dict[int, str] = {}
    running: list[tuple[str, bool]] = []
    for number, (rank, code) in enumerate(zip(ranks, codes, strict=True)):
        name = f"Rank {number} (pid {rank.pid})"
        if code is None:
            running.append((name, is_stopped(rank.pid)))
        elif code:
            ended.setdefault(code, name)
    if reported := [code for code in ended if code > EXIT_UNEXPECTED and code != EXIT_LOST]:
        code = reported[0]
        return RunInterrupted("Interrupted") if code == EXIT_INTERRUPTED else RankError(ended[code], code)
    if killed := [code for code in ended if code < 0]:
        number = -killed[0]
        name = next((known.name for known in signal.Signals if known == number), f"signal {number}")
        why = _OUT_OF_MEMORY if number == signal.SIGKILL else ""
        return LostRankError(f"{ended[killed[0]]} was killed by {name}{why}")
    if EXIT_UNEXPECTED in ended:
        return RankError(ended[EXIT_UNEXPECTED], EXIT_UNEXPECTED)
    if EXIT_LOST not in ended:
        return None
    if not running:
        return LostRankError("The ranks of this run have lost the connection to one another")
    name, stopped = next((rank for rank in running if rank[1]), running[0])
    waited = f"the others waited for it (trainer.timeout_seconds={timeout_seconds:g}), and it was ended"
    if stopped:
        return LostRankError(f"{name} was stopped by SIGSTOP or SIGTSTP; {waited}")
    return LostRankError(f"{name} did not respond; {waited}. If it was only slow, try a larger trainer.timeout_seconds")


def _check_open_files() -> None:
    try:
        import resource  # not on Windows
    except ImportError:
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < _OPEN_FILES:  # -1: there is no limit
        raise ResourceError(
            f"A run on several devices needs {_OPEN_FILES} open files per process, this shell allows {limit}. "
            "Raise the limit, for example: ulimit -n 1024"
        )


def _end(ranks: Sequence[subprocess.Popen[bytes]], received: list[int]) -> None:
    """Ends the ranks that still run; after a second signal at once, since no file is ever half written."""
    running = [rank for rank in ranks if rank.poll() is None]
    for rank in running:
        rank.terminate()
        rank.send_signal(signal.SIGCONT)  # one that was stopped would not see SIGTERM
    deadline = time.monotonic() + _GRACE_SECONDS
    while len(received) < 2 and time.monotonic() < deadline and any(rank.poll() is None for rank in running):
        time.sleep(_POLL_SECONDS)
    for rank in running:
        rank.kill()
        with suppress(subprocess.TimeoutExpired):  # the system cannot end a process that waits for a dead disk
            rank.wait(timeout=_GRACE_SECONDS)


def with_resume_command(error: LostRankError | RunInterrupted, directory: Path) -> LostRankError | RunInterrupted:
    """``error`` as the command ends with it: with the command that resumes, where there is something to resume from."""
    if isinstance(error, LostRankError) and not RunDirectory(directory).checkpoints:
        return error
    from llm_cls.config.compose import to_type  # imports Hydra

    place = to_type("hydra.run.dir", shown_path(directory))
    return RunInterrupted(f"{str(error).rstrip('.')}. Resume with the same command and {place}")
