"""A signal ends the run wherever it comes, once."""

import os
import signal
import subprocess
import sys

import pytest

from llm_cls.signals import is_stopped

PROGRAM = """
import logging, os, signal, sys
from llm_cls import signals
from llm_cls.cli import run_command

def swallow():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        print("swallowed")

def main():
    swallow()
    signals.raise_if_received()
    print("not reached")

sys.exit(run_command(main))
"""


def test_a_swallowed_signal_is_raised_at_the_next_check() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (75, "swallowed\n", "Error: Interrupted by SIGTERM\n")


def test_a_signal_wins_over_errors_raised_during_clean_up() -> None:
    program = (
        "import os, signal, sys\nfrom llm_cls import signals\nfrom llm_cls.cli import run_command\n"
        "def main():\n    with signals.signals_first():\n        try:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n        finally:\n            {}['clean-up']\n"
        "sys.exit(run_command(main))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run in the background
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (75, "Error: Interrupted by SIGINT\n")


def test_an_ignored_signal_stays_ignored() -> None:
    program = "import os, signal; from llm_cls.cli import run_command; "
    program += "run_command(lambda: (os.kill(os.getpid(), signal.SIGINT), print('went on')))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "went on\n")


@pytest.mark.parametrize("module", ["hydra", "pydantic", "llm_cls.config.schema"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_of_train_is_one_line(module: str, number: signal.Signals) -> None:
    program = f"""
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background

class Sender:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Sender())
runpy.run_module("llm_cls.train", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, f"Error: Interrupted by {number.name}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell whether a process is stopped")
@pytest.mark.parametrize(("begins", "stopped"), [("", True), ("ctypes.CDLL(None).ptrace(0, 0, 0, 0)", False)])
def test_a_process_that_a_profiler_holds_is_not_stopped(begins: str, stopped: bool) -> None:
    program = f"import ctypes, os, signal\n{begins}\nos.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        found = is_stopped(process.pid)
        process.kill()
    assert os.WIFSTOPPED(status) and found == stopped
