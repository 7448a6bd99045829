"""Scores a stream of chunks on this process's device, or on several devices with a process each.

The chunks go to the processes in turn and come back in their order. Each is scored as a whole by one process, so that
the number of processes changes no batch.
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from llm_cls.cli import print_error, quiet_libraries
from llm_cls.config.schema import Config
from llm_cls.data.tokens import Tokens
from llm_cls.errors import LostRankError, RankError, ResourceError
from llm_cls.model.decoder import load_architecture
from llm_cls.signals import signal_name
from llm_cls.training.devices import Hardware
from llm_cls.training.loaded import OpenedRun, load_run
from llm_cls.training.scoring import load_classifier, log_probabilities
from llm_cls.training.streams import Chunk

Floats = npt.NDArray[np.float64]
Scored = Iterator[tuple[Chunk, Floats]]
_Answer = Floats | int  # log-probabilities, or the exit code of an error that was printed
_WAITING = 2  # chunks for each process


@contextmanager
def scorer(
    opened: OpenedRun, hardware: Hardware, batch_size: int, progress: "tqdm[Any]"
) -> Iterator[Callable[[Iterator[Chunk]], Scored]]:
    """A function from chunks to chunks with their log-probabilities, shape ``(n, n_labels)``, calibrated if asked for.

    Args:
        opened: The run, whose weights are loaded on every device.
        hardware: The devices.
        batch_size: Texts per forward pass.
        progress: Is told of the texts as they are scored.

    Raises:
        LlmClsError: The weights could not be loaded, or the scores are not finite.
    """
    if hardware.devices == 1:
        loaded = load_run(opened, hardware)

        def score(chunks: Iterator[Chunk]) -> Scored:
            for chunk in chunks:
                found = log_probabilities(loaded.classifier, chunk.tokens, batch_size, hardware, progress)
                yield chunk, opened.calibrated(found)

        yield score
        return
    with ExitStack() as stack:
        ranks = [stack.enter_context(_rank(opened, hardware, batch_size, n)) for n in range(hardware.devices)]

        def score_in_turn(chunks: Iterator[Chunk]) -> Scored:
            waiting: deque[tuple[Chunk, Future[Floats]]] = deque()
            for number, chunk in enumerate(chunks):
                waiting.append((chunk, ranks[number % len(ranks)](chunk.tokens)))
                if len(waiting) >= _WAITING * len(ranks):
                    yield _taken(*waiting.popleft())
            while waiting:
                yield _taken(*waiting.popleft())

        def _taken(chunk: Chunk, future: "Future[Floats]") -> tuple[Chunk, Floats]:
            found = future.result()
            progress.update(len(chunk.tokens))
            return chunk, opened.calibrated(found)

        yield score_in_turn


@contextmanager
def _rank(
    opened: OpenedRun, hardware: Hardware, batch_size: int, rank: int
) -> Iterator[Callable[[Tokens], "Future[Floats]"]]:
    """A process with the device ``rank``, as a function from texts to their future log-probabilities.

    A thread of this process talks to it: either side may wait for the other to read.
    """
    context = get_context("spawn")  # CUDA does not survive a fork
    own, other = context.Pipe()
    arguments = (other, opened.path, opened.config, hardware, batch_size, rank)
    process = context.Process(target=_serve, args=arguments, daemon=True)
    try:
        process.start()
    except OSError as error:
        raise ResourceError(f"A process for device {rank} could not be started: {error.strerror}") from None
    other.close()  # so that its end is noticed

    def ask(tokens: Tokens) -> Floats:
        try:
            own.send(tokens)
            answer: _Answer = own.recv()
        except (EOFError, OSError):
            process.join()
            raise _lost(rank, process.exitcode) from None
        if isinstance(answer, int):
            raise RankError(f"The process of device {rank}", answer)
        return answer

    with own, ThreadPoolExecutor(1) as thread:
        try:
            yield lambda tokens: thread.submit(ask, tokens)
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
            process.kill()  # it writes no file
            process.join()


def _lost(rank: int, code: int | None) -> LostRankError:
    if code is not None and code < 0:
        why = " (the system may have run out of main memory)" if code == -signal.SIGKILL else ""
        return LostRankError(f"The process of device {rank} was killed by {signal_name(-code)}{why}")
    return LostRankError(f"The process of device {rank} has ended with exit code {code}")


def _serve(
    connection: "Connection[_Answer, Tokens]",
    run: Path,
    config: Config,
    hardware: Hardware,
    batch_size: int,
    rank: int,
) -> None:
    """Scores what is sent, until the other side closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group: the parent ends this process
    quiet_libraries()
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(max(1, torch.get_num_threads() // hardware.devices))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            classifier = load_classifier(run, config, load_architecture(config.model), hardware)
            while True:
                connection.send(log_probabilities(classifier, connection.recv(), batch_size, hardware))
        except (EOFError, OSError):
            raise
        except Exception as error:
            connection.send(print_error(error))  # to the question that is open, or to the first one
