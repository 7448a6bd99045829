"""One process per device.

Lightning starts the other ranks by rerunning ``sys.argv``, which under ``--multirun`` makes every rank
run its own whole sweep. Here the run that Hydra composed writes ``config.yaml``, and every rank is a fresh
process that reads that file: one configuration by construction, in a sweep as in a single run. The ranks of a sweep
then wait for the next run.

torch's elastic launcher would start the ranks as well, but leaves them running when it is killed itself, ends them
after a fixed grace period whatever further signals arrive, and cannot tell which rank keeps the others waiting.
"""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from llm_cls.cores import usable_cores
from llm_cls.errors import ConfigError
from llm_cls.signals import handled_signals, interrupted_by, is_stopped
from llm_cls.training.failures import EXIT_LOST, failure
from llm_cls.training.rank_process import PARENT, RankProcess, check_open_files

_GRACE_SECONDS = 30.0  # for the ranks to finish their W&B runs
_POLL_SECONDS = 0.05


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


def launch_ranks(directory: Path, devices: int, timeout_seconds: float) -> None:
    """Trains one run in ranks of its own, which end with it; see ``Ranks.train``."""
    ranks = Ranks()
    try:
        ranks.train(directory, devices, timeout_seconds)
    finally:
        ranks.end()


class Ranks:
    """A process per device, which train one run after another: ``llm_cls.training.rank``.

    They keep what they have imported and loaded, and their connections. A run that fails ends all of them, and the next
    one gets new ones, as does a run with another number of devices, time limit, folder or environment.
    """

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._ranks: list[RankProcess] = []
        self._conditions: Any = None  # under which they were started

    def start(self, devices: int, timeout_seconds: float) -> None:
        """Starts the ranks of the next run, unless they wait for one already.

        Called early, it saves the seconds in which they load their libraries: this process loads its own meanwhile.

        Raises:
            ResourceError: They may not open enough files.
        """
        conditions = devices, timeout_seconds, _environment(devices), Path.cwd()
        if conditions != self._conditions or not all(rank.is_idle() for rank in self._ranks):
            self.end()
        if self._ranks:
            return
        check_open_files()
        self._conditions = conditions
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        try:
            for number in range(devices):
                own = {"RANK": str(number), "LOCAL_RANK": str(number), "MASTER_PORT": port}
                self._ranks.append(RankProcess(conditions[2] | own))
        except BaseException:  # fewer than all of them would wait for the others
            self.end()
            raise

    def libraries_loaded(self) -> None:
        """Notes what libraries have set in this process's environment since ``start``; in the ranks they do too."""
        if self._ranks:
            devices, timeout_seconds, _, folder = self._conditions
            self._conditions = devices, timeout_seconds, _environment(devices), folder

    def train(self, directory: Path, devices: int, timeout_seconds: float) -> None:
        """Trains a run, and waits for all ranks.

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
        self.start(devices, timeout_seconds)
        received: list[int] = []

        def interrupt(number: int, frame: FrameType | None) -> None:
            received.append(number)

        handlers = {number: signal.signal(number, interrupt) for number in handled_signals()}
        fault: BaseException | None = None
        done = False
        try:
            for rank in self._ranks:
                rank.ask(directory)
            codes = _wait(self._ranks, received, timeout_seconds)
            fault = failure([rank.process.pid for rank in self._ranks], codes, timeout_seconds)
            done = fault is None and not received
        finally:
            if not done:
                end_processes([rank.process for rank in self._ranks], received)
                self.end()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if received:
            raise interrupted_by(received[0])
        if fault is not None:
            raise fault

    def end(self) -> None:
        """Ends the ranks, which wait for a run."""
        for rank in self._ranks:
            rank.connection.close()  # at which it ends by itself
            if not rank.began or is_stopped(rank.process.pid):  # it may be loading its libraries
                rank.process.kill()
        _wait_or_kill([rank.process for rank in self._ranks], [])
        self._ranks = []


def threads_of_each(processes: int) -> str:
    """OMP_NUM_THREADS of each of so many processes that work side by side.

    That of this process is for all of them: more threads than cores would wait for one another.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(threads) if threads.isdecimal() else usable_cores()
    return str(max(1, cores // processes))


def _environment(devices: int) -> dict[str, str]:
    """The variables of each rank, apart from those in which they differ."""
    # Without SLURM's variables, from which Lightning would conclude that SLURM has started the ranks.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    return inherited | {
        "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": str(devices),
        "NODE_RANK": "0",
        PARENT: str(os.getpid()),
        "OMP_NUM_THREADS": threads_of_each(devices),
    }


def _wait(ranks: Sequence[RankProcess], received: list[int], patience: float) -> list[int | None]:
    """Waits until all ranks have completed the run or the fault of one is known; the codes, None for one that trains.

    A rank that has lost another ends with EXIT_LOST. The other one then ends as well, with the exit code that counts,
    or it does not respond.
    """
    deadline = None
    codes: list[int | None] = [None] * len(ranks)
    while True:
        codes = [rank.code() if code is None else code for rank, code in zip(ranks, codes, strict=True)]
        if received or None not in codes or set(codes) - {None, 0, EXIT_LOST}:
            return codes
        if EXIT_LOST in codes:
            deadline = deadline or time.monotonic() + min(_GRACE_SECONDS, patience)
            running = [rank for rank, code in zip(ranks, codes, strict=True) if code is None]
            if time.monotonic() > deadline or all(is_stopped(rank.process.pid) for rank in running):
                return codes
        time.sleep(_POLL_SECONDS)


def end_processes(processes: Sequence[subprocess.Popen[bytes]], received: list[int]) -> None:
    """Ends those that still run; after a second signal at once, since no file is ever half written."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
        process.send_signal(signal.SIGCONT)  # one that was stopped would not see SIGTERM
    _wait_or_kill(running, received)


def _wait_or_kill(processes: Sequence[subprocess.Popen[bytes]], received: list[int]) -> None:
    """Waits for their end, for a while."""
    running = [process for process in processes if process.poll() is None]
    deadline = time.monotonic() + _GRACE_SECONDS
    while len(received) < 2 and time.monotonic() < deadline and any(process.poll() is None for process in running):
        time.sleep(_POLL_SECONDS)
    for process in running:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # the system cannot end a process that waits for a dead disk
            process.wait(timeout=_GRACE_SECONDS)
