"""``python -m tests.integration.forks MODULE ARGUMENTS``: the processes in which it scores texts are forks of it.

They have its imports already, but get what is sent to new processes alone.
"""

import pickle
import runpy
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

from llm_cls.training import scorers

CONTEXT = get_context("fork")


class Forked:
    """In the place of the context ``spawn``."""

    Pipe = staticmethod(CONTEXT.Pipe)

    @staticmethod
    def Process(target: Any, args: Any, daemon: bool) -> BaseProcess:
        """A fork that calls ``target``; all but the connection is sent through pickle."""
        connection, *others = args
        target, others = pickle.loads(pickle.dumps((target, others)))
        return CONTEXT.Process(target=target, args=(connection, *others), daemon=daemon)


if __name__ == "__main__":
    scorers.get_context = lambda method: {"spawn": Forked}[method]
    sys.argv = sys.argv[1:]
    sys.modules.pop(sys.argv[0], None)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
