"""Why a run on several devices failed, from the exit codes of its ranks."""

import signal
from collections.abc import Sequence
from pathlib import Path

from llm_cls.cli import shown_path
from llm_cls.errors import EXIT_INTERRUPTED, EXIT_UNEXPECTED, LostRankError, RankError, RunInterrupted
from llm_cls.runs.directory import RunDirectory
from llm_cls.signals import is_stopped, signal_name

EXIT_LOST = 76  # of a rank that has lost another one; the process that started it knows why
_OUT_OF_MEMORY = (
    ", as happens when the system runs out of main memory. Try fewer trainer.devices or a smaller data.micro_batch_size"
)


def failure(
    pids: Sequence[int], codes: Sequence[int | None], timeout_seconds: float
) -> RunInterrupted | LostRankError | RankError | None:
    """Why the run failed; None if it did not.

    Args:
        pids: The processes of the ranks.
        codes: Their exit codes; None for one that runs, 0 for one that has done its part.
        timeout_seconds: ``trainer.timeout_seconds``.
    """
    ended: dict[int, str] = {}
    running: list[tuple[str, bool]] = []
    for number, (pid, code) in enumerate(zip(pids, codes, strict=True)):
        name = f"Rank {number} (pid {pid})"
        if code is None:
            running.append((name, is_stopped(pid)))
        elif code:
            ended.setdefault(code, name)
    if reported := [code for code in ended if code > EXIT_UNEXPECTED and code != EXIT_LOST]:
        code = reported[0]
        return RunInterrupted("Interrupted") if code == EXIT_INTERRUPTED else RankError(ended[code], code)
    if killed := [code for code in ended if code < 0]:
        number = -killed[0]
        why = _OUT_OF_MEMORY if number == signal.SIGKILL else ""
        return LostRankError(f"{ended[killed[0]]} was killed by {signal_name(number)}{why}")
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


def with_resume_command(error: LostRankError | RunInterrupted, directory: Path) -> LostRankError | RunInterrupted:
    """``error`` as the command ends with it: with the command that resumes, where there is something to resume from."""
    if isinstance(error, LostRankError) and not RunDirectory(directory).checkpoints:
        return error
    from llm_cls.config.compose import to_type  # imports Hydra

    place = to_type("hydra.run.dir", shown_path(directory))
    return RunInterrupted(f"{str(error).rstrip('.')}. Resume with the same command and {place}")
