"""``python -m tests.fork_server SOCKET``: runs commands in forks of one process that has done their imports.

Importing torch, lightning, transformers and peft takes longer than most tests. A fork has them already and is otherwise
an ordinary process with its own state, signals and exit code. The server has one thread and computes nothing, because
neither threads nor their locks survive a fork. All workers of the tests share the server: each holds its stdin open.

``ForkServer`` is the client; ``ForkedProcess`` replaces ``subprocess.Popen``.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = (
    "torch", "torch.utils.data", "torch.optim.adamw", "torch.optim.lr_scheduler", "torch._dynamo", "lightning.pytorch",
    "transformers.models.auto.modeling_auto", "transformers.models.gpt_neox.modeling_gpt_neox", "peft",
    "peft.tuners.lora", "sentencepiece", "sklearn.metrics", "torchmetrics", "wandb", "optuna", "pandas",
    "hydra", "hydra.main", "hydra._internal.hydra", "llm_cls.multirun.sweeper", "llm_cls.multirun.task",
    "llm_cls.training.run", "llm_cls.training.prediction", "llm_cls.reporting.page", "llm_cls.data.sources.livedoor",
    "sklearn.feature_extraction.text", "sklearn.linear_model",
    # what W&B imports when a run begins
    "wandb.apis.public", "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
)  # fmt: skip

SMALL = ("model=hf", "trainer=cpu", "logger=none")
CHOICES = (  # of most commands
    ("model=ja-mini", "data=sample"), (), SMALL, SMALL[:2], (*SMALL, "data=sample"), (*SMALL, "template='1'"),
    (*SMALL, "template='2'"), (*SMALL, "data=table"), ("experiment=quickstart", *SMALL[:2]),
)  # fmt: skip


class ForkedProcess:
    """A command that runs in a fork of the server; its output goes to two files."""

    def __init__(self, connection: socket.socket, stdout: Path, stderr: Path) -> None:
        self._connection, self._files = connection, (stdout, stderr)
        self._answers = connection.makefile("r", encoding="utf-8")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, as soon as the process has ended.

        Raises:
            subprocess.TimeoutExpired: It still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            select.select([self._connection], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What the process has written to stdout and stderr, as soon as it has ended."""
        self.wait(timeout)
        stdout, stderr = (path.read_bytes().decode("utf-8") for path in self._files)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        """Sends ``number`` unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Asks the server for processes, and starts it where no other worker has done so.

    Args:
        folder: For the output of the processes.
        environment: Variables of the server. What libraries read from it at import is the same in every fork.
        shared: A folder that the workers share, for the socket of the server and its stdin; by default ``folder``.
    """

    def __init__(self, folder: Path, environment: dict[str, str], shared: Path | None = None) -> None:
        self._folder, self._shared, self._number = folder, shared or folder, 0
        for path in (folder, self._shared):
            path.mkdir(parents=True, exist_ok=True)
        stdin = self._shared / "stdin"
        with FileLock(self._shared / "lock"):
            try:
                self._stdin = os.open(stdin, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads: there is no server, or none any more
                self._stdin = self._start_server(stdin, environment)

    def _start_server(self, stdin: Path, environment: dict[str, str]) -> int:
        for path in (stdin, self._shared / "socket"):
            path.unlink(missing_ok=True)
        os.mkfifo(stdin)
        fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])}
        reader = os.open(stdin, os.O_RDONLY | os.O_NONBLOCK)
        with (self._shared / "server.log").open("w") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(self._shared / "socket")],
                cwd=ROOT, env=environment | fixed, stdin=reader, stdout=log, stderr=log,
            )  # fmt: skip
        writer = os.open(stdin, os.O_WRONLY)
        os.close(reader)
        return writer

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        cwd: Path,
        environment: dict[str, str],
        own_group: bool = False,
        stdin: str = os.devnull,
        stdout: Path | None = None,
    ) -> ForkedProcess:
        """``python -m MODULE ARGUMENTS`` in ``cwd``.

        Args:
            module: For example ``llm_cls.train``; it is executed as ``__main__``.
            arguments: The command line arguments.
            cwd: The working directory.
            environment: All variables of the process.
            own_group: Whether it gets its own session, as a command in a terminal has its own process group.
            stdin: A file, or a named pipe.
            stdout: A named pipe instead of the file that ``communicate`` reads.
        """
        connection = self._connect()
        self._number += 1
        files = [self._folder / f"{self._number}.{name}" for name in ("stdout", "stderr")]
        request = {
            "module": module, "arguments": list(arguments), "cwd": str(cwd), "environment": environment,
            "files": [stdin, str(stdout or files[0]), str(files[1])], "own_group": own_group,
        }  # fmt: skip
        files[0].touch()
        connection.sendall(json.dumps(request).encode() + b"\n")
        return ForkedProcess(connection, *files)

    def _connect(self) -> socket.socket:
        poll = select.poll()
        poll.register(self._stdin, 0)
        while not poll.poll(0):  # somebody reads it
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._shared / "socket"))
            except (FileNotFoundError, ConnectionRefusedError):  # the server still imports
                connection.close()
                time.sleep(0.05)
            else:
                return connection
        raise RuntimeError((self._shared / "server.log").read_text())

    def said_by_imports(self) -> str:
        """What the server's imports have printed, once it has started a process."""
        return (self._shared / "imports.log").read_text(encoding="utf-8")

    def close(self) -> None:
        """Leaves the server, which ends when all workers have. Processes that still run end by themselves."""
        os.close(self._stdin)


def serve(path: str) -> None:
    """Forks for each request, until all have closed stdin."""
    gc.disable()  # what the imports make stays
    for name in IMPORTS:
        importlib.import_module(name)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    shutil.copy(Path(path).with_name("server.log"), Path(path).with_name("imports.log"))
    _fill_caches()
    gc.freeze()  # a collection in a fork would touch, and so copy, every object
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, which then close stdin
    stdin = sys.stdin.fileno()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)
        while stdin not in select.select([listener, stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                request = None if os.fork() else _watch(connection)
            if request:
                listener.close()
                _run(request)


def _fill_caches() -> None:
    """Does once what each process would do again when it starts: the states of parsers, the patterns of names."""
    from hydra.core.global_hydra import GlobalHydra
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from llm_cls.config.compose import compose_tree
    from tests.compositions import remember_compositions

    remember_compositions()
    for choices in CHOICES:
        compose_tree([*choices, "optimizer.lr=1e-3", "lora.target_modules=[a]", "hydra.run.dir=run"])
    GlobalHydra.instance().clear()
    get_checkpoint_conversion_mapping("gpt_neox")


def _watch(connection: socket.socket) -> dict[str, Any]:
    """Starts the process of a request and reports its pid and exit code; returns only in that process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request: dict[str, Any] = json.loads(connection.makefile("r", encoding="utf-8").readline())
    pid = os.fork()
    if pid == 0:
        return request
    try:
        connection.sendall(f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(f"{code}\n".encode())
    finally:
        os._exit(0)


def _run(request: dict[str, Any]) -> NoReturn:
    """Runs the request in this process. It ends as Python does, but skips freeing all memory, which takes seconds."""
    if request["own_group"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stdin, *outputs = request["files"]
    descriptors = [os.open(stdin, os.O_RDONLY)]
    descriptors += [os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for file in outputs]
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    # Those of the server take what may be a pipe here for a file, and the reverse.
    sys.stdin = os.fdopen(0, encoding=sys.stdin.encoding, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    atexit._clear()  # what the server has registered, such as the removal of temporary folders, is the server's
    for finalizer in weakref.finalize._registry.values():
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False
    sys.argv = [request["module"], *request["arguments"]]
    sys.path.insert(0, "")
    sys.modules.pop(request["module"], None)  # another module has imported it
    code: object = 1
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # waits for all but daemons
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve(sys.argv[1])
