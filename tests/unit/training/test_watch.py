"""Ranks that are missing: what torch raises, as one line."""

import json
import subprocess
import sys

import pytest
import torch.distributed as dist

from llm_cls.errors import LostRankError
from llm_cls.training.watch import explain_lost_ranks

# Each case is two forks, which are the ranks and end as Python does; the line is what rank 0 has printed.
PROGRAM = """
import atexit, datetime, json, os, signal, sys, time
import torch, torch.distributed as dist
from llm_cls.cli import run_command
from llm_cls.training.watch import explain_lost_ranks

def ended():
    os._exit(0)

def hangs():
    signal.pause()

def fails():
    atexit.register(meet)
    dist.all_reduce(torch.zeros(1), async_op=True)  # torch's thread waits for rank 1, and owns this tensor
    raise MemoryError

def meet():  # Python's clean-up and the thread, which then has to free its tensor
    sys.setswitchinterval(1000)  # the thread waits for the interpreter
    os.kill(rank_1, signal.SIGKILL)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        pass

def start(rank, name, action):
    if pid := os.fork():
        return pid
    os.environ["RANK"] = str(rank)
    os.dup2(os.open(name + str(rank), os.O_WRONLY | os.O_CREAT), 2)

    def main():
        with explain_lost_ranks():
            dist.init_process_group("gloo", f"file://{os.getcwd()}/{name}", datetime.timedelta(seconds=2), 2, rank)
            dist.barrier()
            action()
            dist.all_reduce(torch.zeros(1))

    sys.exit(run_command(main))

def nothing():
    pass

results = {}
for name, of_rank_0, of_rank_1 in [("ended", nothing, ended), ("hangs", nothing, hangs), ("fails", fails, hangs)]:
    rank_1 = start(1, name, of_rank_1)
    rank_0 = start(0, name, of_rank_0)
    code = os.waitstatus_to_exitcode(os.waitpid(rank_0, 0)[1])
    os.kill(rank_1, signal.SIGKILL)
    os.waitpid(rank_1, 0)
    results[name] = rank_0, code, open(name + "0").read()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def rank_0(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int, str]]:
    """Of each case of the program: pid, exit code and stderr of rank 0."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results: dict[str, tuple[int, int, str]] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("ended", "has lost the connection to another rank"),
        ("hangs", "has waited for another rank longer than trainer.timeout_seconds"),
    ],
)
def test_a_missing_rank_is_one_line(rank_0: dict[str, tuple[int, int, str]], case: str, said: str) -> None:
    pid, code, errors = rank_0[case]
    assert code == 4, errors
    assert errors.startswith(f"Error: Rank 0 (pid {pid} on ") and said in errors and errors.count("\n") == 1


def test_a_rank_that_fails_during_a_collective_keeps_its_exit_code(rank_0: dict[str, tuple[int, int, str]]) -> None:
    _, code, errors = rank_0["fails"]
    assert code == 4 and errors.startswith("Error: Out of memory") and errors.count("\n") == 1, (code, errors)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (dist.DistStoreError("Timed out after 3 seconds waiting for clients. 1/2 clients joined."), True),
        (dist.DistNetworkError("The client socket has timed out after 2000ms while trying to connect"), True),
        (dist.DistBackendError("NCCL error: remote process exited or there was a network error"), True),
        (dist.DistNetworkError("EADDRINUSE: address already in use (errno: 98)"), False),
        (dist.DistBackendError("NCCL error: unhandled cuda error, CUDA out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("timed out waiting"), False),
    ],
)
def test_only_what_another_rank_causes_is_explained(error: Exception, lost: bool) -> None:
    with pytest.raises(LostRankError if lost else type(error)) as caught, explain_lost_ranks():
        raise error
    assert isinstance(caught.value, LostRankError) == lost
