"""Ranks that are missing: what torch raises, as one line."""

import os
import subprocess
import sys

import pytest
import torch.distributed as dist

from llm_cls.errors import LostRankError
from llm_cls.training.watch import explain_lost_ranks
from tests.integration.test_training import free_port

# Rank 1 ends or hangs before the collective; rank 0 waits in it.
PROGRAM = """
import datetime, os, sys, time
import torch, torch.distributed as dist
from llm_cls.cli import run_command
from llm_cls.training.watch import explain_lost_ranks

def main():
    with explain_lost_ranks():
        dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=2))
        dist.barrier()
        if os.environ["RANK"] == "1":
            {}
        dist.all_reduce(torch.zeros(1))

sys.exit(run_command(main))
"""


@pytest.mark.parametrize(
    ("rank_1", "said"),
    [
        ("os._exit(0)", "has lost the connection to another rank"),
        ("print(flush=True), sys.stdin.read()", "has waited for another rank longer than trainer.timeout_seconds"),
    ],
)
def test_a_missing_rank_is_one_line(rank_1: str, said: str) -> None:
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(rank_1)], env=os.environ | together | {"RANK": str(rank)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    assert ranks[0].stderr is not None
    errors = ranks[0].stderr.read()  # while rank 1 hangs
    assert ranks[0].wait() == 4, errors
    assert errors.startswith(f"Error: Rank 0 (pid {ranks[0].pid} on ") and said in errors and errors.count("\n") == 1
    ranks[1].communicate()


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
