"""One process per device.

Lightning starts the other ranks by rerunning ``sys.argv``, which under ``--multirun`` makes every rank
run its own whole sweep. Here the run that Hydra composed writes ``config.yaml``, and every rank is a fresh
process that reads that file: one configuration by construction, in a sweep as in a single run.

torch's elastic launcher would start the ranks as well, but leaves them running when it is killed itself, and ends them
after a fixed grace period whatever further signals arrive.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from llm_cls.errors import EXIT_INTERRUPTED, EXIT_UNEXPECTED, RankError, RunInterrupted
from llm_cls.signals import handled_signals, interrupted_by

PARENT = "LLM_CLS_PARENT"  # id of the process that started a rank; the rank ends with it
_GRACE_SECONDS = 30.0  # for the ranks to finish their W&B runs
_POLL_SECONDS = 0.05


def is_first_process() -> bool:
    """Whether this is the only process of its run, or the one of them that writes."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


def started_together() -> int | None:
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


def launch_ranks(directory: Path, devices: int) -> None:
    """Runs ``llm_cls.training.rank`` once per device and waits for all of them.

    If one fails, the others are ended: they would wait for it forever.

    Raises:
        RunInterrupted: This process or a rank received a signal.
        RankError: A rank failed.
    """
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
    codes: list[int | None] = [None] * devices
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(devices):
            command = [sys.executable, "-m", "llm_cls.training.rank", str(directory)]
            # In a new session, so that Ctrl-C reaches only this process, which then ends the ranks together.
            environment = base | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(subprocess.Popen(command, env=environment, start_new_session=True))
        while None in codes and not (received or any(codes)):
            time.sleep(_POLL_SECONDS)
            codes = [rank.poll() for rank in ranks]
    finally:
        _end(ranks, received)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise interrupted_by(received[0])
    if failed := [code for code in codes if code]:
        code = next((code for code in failed if code > EXIT_UNEXPECTED), EXIT_UNEXPECTED)
        raise RunInterrupted("Interrupted") if code == EXIT_INTERRUPTED else RankError(code)


def _end(ranks: list[subprocess.Popen[bytes]], received: list[int]) -> None:
    """Ends the ranks that still run; after a second signal at once, since no file is ever half written."""
    running = [rank for rank in ranks if rank.poll() is None]
    for rank in running:
        rank.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    while len(received) < 2 and time.monotonic() < deadline and any(rank.poll() is None for rank in running):
        time.sleep(_POLL_SECONDS)
    for rank in running:
        rank.kill()
        rank.wait()
