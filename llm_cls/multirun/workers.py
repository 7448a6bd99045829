"""``sweep.workers``: processes that share the runs of a sweep, started and watched by one command.

Each is the same command once more (``llm_cls.multirun.worker``) and trains what no other process does, as several
commands that a user starts: the locks of the runs are all that they have in common.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from llm_cls.cli import say
from llm_cls.config.schema import Config
from llm_cls.errors import EXIT_INTERRUPTED, ConfigError, SweepError
from llm_cls.runs.sweep import PlannedRun, progress_line
from llm_cls.signals import signal_name
from llm_cls.training.launch import end_processes, threads_of_each
from llm_cls.training.rank_process import PARENT

log = logging.getLogger(__name__)

WORKER = "LLM_CLS_WORKER"  # set in a worker, which starts none itself
Reasons = dict[str, str]
_POLL_SECONDS = 0.5
_QUIET_SECONDS = 60.0


def environments(configs: Sequence[Config], launcher: str) -> list[dict[str, str]]:
    """The variables in which the workers of this sweep differ from this process: one element per worker.

    Args:
        configs: The runs.
        launcher: The class of Hydra's launcher.

    Raises:
        ConfigError: Another launcher than Hydra's own starts processes for the runs.
    """
    workers = configs[0].sweep.workers
    if WORKER in os.environ or workers == 1:
        return [{}]
    if not launcher.endswith(".BasicLauncher"):
        raise ConfigError(
            f"sweep.workers must be 1 with hydra/launcher=ray or submitit_slurm, which start a process for each run, "
            f"got {workers}. Leave one of the two out"
        )
    devices = _visible_devices() if any(config.trainer.accelerator != "cpu" for config in configs) else []
    needed = max(len(devices) if (n := config.trainer.devices) == "auto" else n for config in configs) or 1
    groups = [devices[i : i + needed] for i in range(0, len(devices) - needed + 1, needed)] or [devices]
    count = len(groups) if workers == "auto" else workers
    shared = {"OMP_NUM_THREADS": threads_of_each(count)}
    return [
        shared | ({"CUDA_VISIBLE_DEVICES": ",".join(groups[i % len(groups)])} if devices else {}) for i in range(count)
    ]


def _visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    found = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = list(map(str, range(found))) if given is None else [name.strip() for name in given.split(",")]
    return names[:found]


def run_workers(
    own: Sequence[dict[str, str]], arguments: Sequence[str], states: Callable[[], Sequence[PlannedRun]]
) -> tuple[Reasons, Reasons]:
    """Starts a worker per element of ``own``, and shows what becomes of the runs until all of them have ended.

    Args:
        own: See ``environments``.
        arguments: Their command line.
        states: Reads the runs of the sweep.

    Returns:
        Why runs were refused and why their processes failed, by folder; see ``conclude``.
    """
    refused: Reasons = {}
    reasons: Reasons = {}
    shown = _Shown(states())
    with _started(own, arguments) as workers:
        left = dict(enumerate(workers, 1))
        while left:
            time.sleep(_POLL_SECONDS)
            ended = {number: worker for number, worker in left.items() if worker[0].poll() is not None}
            shown.update(states())
            for number, (process, conclusion) in ended.items():
                del left[number]
                if (code := process.returncode) not in (0, SweepError.exit_code):
                    rest = "the others continue with its runs" if left else "no other is left"
                    log.warning("Worker %d (pid %d) %s; %s", number, process.pid, _end_of(code), rest)
                conclusion.seek(0)
                with suppress(ValueError):  # it has written nothing, or not all of it
                    found = json.load(conclusion)
                    refused |= found["refused"]
                    reasons |= found["reasons"]
    return refused, reasons


@contextmanager
def _started(
    own: Sequence[dict[str, str]], arguments: Sequence[str]
) -> Iterator[list[tuple["subprocess.Popen[bytes]", IO[bytes]]]]:
    """The workers, each with the file that gets its conclusion; they end with the block."""
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        stack.callback(lambda: end_processes(processes, []))
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in own]
        for number, (variables, file) in enumerate(zip(own, files, strict=True), 1):
            environment = os.environ | variables | {WORKER: str(number), PARENT: str(os.getpid())}
            command = [sys.executable, "-m", "llm_cls.multirun.worker", *arguments]
            # In a new session, so that Ctrl-C reaches only this process, which then ends the workers together.
            processes.append(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=file, start_new_session=True
                )
            )
        yield list(zip(processes, files, strict=True))


class _Shown:
    """The lines about the runs: one when a run begins, one when it ends, and now and then how long the others take."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self._before = {run.entry.directory: run.state.name for run in runs}
        self._said = time.monotonic()

    def update(self, runs: Sequence[PlannedRun]) -> None:
        """Prints what has changed."""
        now = {run.entry.directory: run.state.name for run in runs}
        changed = {name: state for name, state in now.items() if state != self._before.get(name, "planned")}
        began = [name for name, state in changed.items() if state == "running"]
        ended = changed.keys() - began
        for name in began:
            say(f"Run {name}")
        if ended or time.monotonic() - self._said > _QUIET_SECONDS:
            say(progress_line(runs))
            self._said = time.monotonic()
        self._before = now


def _end_of(code: int) -> str:
    if code < 0:
        return f"was killed by {signal_name(-code)}"
    return "was interrupted" if code == EXIT_INTERRUPTED else "has failed, as reported above"
