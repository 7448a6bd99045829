"""Ranks that die or stop responding: the others notice, say so in one line and end.

gloo and NCCL give up a collective after a timeout, but NCCL ends the process with a C++ traceback, and neither says
which rank was missing. So each rank counts in torch's store how often a thread of it has run, which a stopped, killed
or unreachable process does not, and watches the counts of the others. It ends before the collective does.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from llm_cls.cli import print_error
from llm_cls.errors import LostRankError
from llm_cls.training.failures import EXIT_LOST, with_resume_command
from llm_cls.training.rank_process import PARENT

_DONE = 1 << 40  # added to the count of a rank that needs no watching any more
_BEATS = 20  # per time limit
_LOST = re.compile(
    r"gloo.*(connect|closed|reset|read error|timed out|timeout)|nccl.*(remote|connection|closed|timeout)"
    r"|timed out (after|waiting)|wait timeout|broken pipe|connection (was )?(reset|closed)|failed to recv",
    re.IGNORECASE | re.DOTALL,
)


class RankWatch:
    """Ends this process when another rank of the run does not respond.

    Used as a context manager around what the ranks do together.

    Attributes:
        timeout_seconds: Of the collectives; a rank is watched for half of it.
    """

    def __init__(self, timeout_seconds: float, directory: Path) -> None:
        """Starts nothing yet.

        Args:
            timeout_seconds: See the class.
            directory: The run directory, for the command that resumes.
        """
        self.timeout_seconds, self._limit, self._directory = timeout_seconds, timeout_seconds / 2, directory
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None
        self._answered = 0.0  # when the store did so last
        self._seen: dict[int, tuple[int, float]] = {}  # the count of each other rank, and when it changed last
        self._names: dict[int, str] = {}
        self._rank = 0

    def __enter__(self) -> "RankWatch":
        """Does nothing: there is no store before the process group."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the watch in this process, and tells the others."""
        self._stop.set()
        if self._beating is not None:
            self._beating.join(timeout=1.0)  # it may wait for a store that is gone

    def start(self) -> None:
        """Begins, once the process group exists and all ranks have come to this run."""
        if self._beating is not None:
            return
        self._rank = dist.get_rank()
        others = set(range(dist.get_world_size())) - {self._rank}
        # A connection of its own: one that the process group waits on would be blocked.
        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
            timeout=timedelta(seconds=self.timeout_seconds),
        )  # fmt: skip
        prefix = f"llm_cls/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        # Ranks train one run after another, and the store outlives the runs.
        prefix += f"/{store.add(f'{prefix}/runs/{self._rank}', 1)}"
        store.set(f"{prefix}/name/{self._rank}", _own_name(self._rank))
        self._names = {other: store.get(f"{prefix}/name/{other}").decode() for other in others}  # waits for them
        self._answered = time.monotonic()
        self._seen = dict.fromkeys(others, (0, self._answered))
        self._beating = threading.Thread(target=self._beat, args=(store, prefix), daemon=True)
        self._beating.start()
        threading.Thread(target=self._judge, daemon=True).start()

    def _beat(self, store: TCPStore, prefix: str) -> None:
        """Counts, and reads the other counts, until the watch ends or the store is gone."""
        with suppress(RuntimeError):  # the store is gone; ``_judge`` misses its answers
            while not self._stop.wait(self._limit / _BEATS):
                store.add(f"{prefix}/count/{self._rank}", 1)
                for other, (before, _) in list(self._seen.items()):
                    count = store.add(f"{prefix}/count/{other}", 0)
                    if count != before:
                        self._seen[other] = (count, time.monotonic())
                self._answered = time.monotonic()
            store.add(f"{prefix}/count/{self._rank}", _DONE)

    def _judge(self) -> None:
        """Ends the process as soon as a rank, or the store, has not responded for too long."""
        interval = self._limit / _BEATS
        last = time.monotonic()
        while not self._stop.wait(interval):
            now = time.monotonic()
            if now - last > self._limit / 2:  # this process itself was stopped
                self._answered = now
                self._seen = {rank: (count, now) for rank, (count, _) in self._seen.items()}
            last = now
            watched = {rank: since for rank, (count, since) in self._seen.items() if count < _DONE}
            if now - self._answered > self._limit:
                if self._rank == 0 or 0 in watched:
                    self._end({0})  # the store is in the process of rank 0, or of torchrun on its machine
            elif silent := {rank for rank, since in watched.items() if now - since > self._limit}:
                self._end(silent)

    def _end(self, silent: set[int]) -> None:
        """Ends this process, whose main thread may wait in a collective that nothing interrupts."""
        if PARENT in os.environ:
            os._exit(EXIT_LOST)  # the process that started this one knows more
        rank = min(silent)
        error = LostRankError(
            f"{self._names[rank]} has not responded for {self._limit:g} s "
            f"(half of trainer.timeout_seconds): it was killed or stopped, or its machine cannot be reached"
        )
        conclusion = with_resume_command(error, self._directory)
        if self._rank == min(({self._rank} | self._seen.keys()) - silent):  # one line, not one per rank
            print_error(conclusion)
        os._exit(conclusion.exit_code)


@contextmanager
def explain_lost_ranks() -> Iterator[None]:
    """Turns what torch raises where another rank is missing into one line.

    Raises:
        LostRankError: The connection to another rank was lost, or a collective timed out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_of_another_rank(error):
            raise
        name = _own_name(int(os.environ.get("RANK", "0")))
        if re.search(r"timed out|timeout", str(error), re.IGNORECASE):
            raise LostRankError(
                f"{name} has waited for another rank longer than trainer.timeout_seconds: that one hangs, was stopped, "
                "or is only slow. If it is only slow, try a larger trainer.timeout_seconds"
            ) from None
        raise LostRankError(f"{name} has lost the connection to another rank, which was killed or has failed") from None


def is_of_another_rank(error: BaseException) -> bool:
    """Whether the error says only that another rank is missing, as torch, gloo and NCCL word it."""
    known = isinstance(error, dist.DistError) or type(error) is RuntimeError
    text = str(error)
    return known and "address already in use" not in text.lower() and bool(_LOST.search(text))


def _own_name(rank: int) -> str:
    return f"Rank {rank} (pid {os.getpid()} on {socket.gethostname()})"
