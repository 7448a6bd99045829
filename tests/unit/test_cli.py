"""Printing survives closed pipes and terminals that cannot show a character; errors are one line."""

import errno
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llm_cls import benchmark, dashboard, evaluate, predict, report, status, train
from llm_cls.cli import print_error, printable, run_command, summarize
from llm_cls.config.help import train_help
from llm_cls.errors import ConfigError, ResourceError

COMMANDS = {
    "benchmark": benchmark, "dashboard": dashboard, "evaluate": evaluate, "predict": predict, "report": report,
    "status": status,
}  # fmt: skip
PROGRAM = "import sys; from llm_cls.cli import run_command, say; sys.exit(run_command(lambda: say('\\u65e5\\u672c')))"


def test_closed_pipe_is_not_an_error() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_terminal_that_cannot_encode_a_character() -> None:
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, b"\\u65e5\\u672c\n")


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB", ": 2.50 GiB more"),
        ("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 "
         "bytes. Error code 12", ": 64 bytes more"),
        ("std::bad_alloc: out of memory", "."),
    ],
)  # fmt: skip
def test_out_of_memory_of_any_device(text: str, amount: str) -> None:
    line, code = summarize(RuntimeError(text))
    assert line.startswith(f"Out of memory{amount}") and "data.micro_batch_size" in line
    assert code == ResourceError.exit_code


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "Free some space, or write to another folder (training: hydra.run.dir=DIR; "),
        (errno.EROFS, "Write to another folder (training: hydra.run.dir=DIR; "),
        (errno.EIO, "Check the disk, "),
        (errno.EACCES, "Check the permissions, "),
        (errno.ENOENT, "Check the path"),
        (errno.ENAMETOOLONG, "Check the path"),
        (errno.ENOTDIR, "Check the path: a file is where a folder must be"),
        (errno.EISDIR, "Check the path: a folder is where a file must be"),
    ],
)
def test_faults_of_paths_and_of_the_disk(number: int, fix: str) -> None:
    """Each has its own fix: a path that cannot be read is not mended by writing elsewhere."""
    line, code = summarize(OSError(number, "x", "a"))
    assert line.startswith(f"a: {os.strerror(number)}. {fix}")
    assert ("write to" in line.lower()) == (number in (errno.ENOSPC, errno.EROFS))
    assert code == ResourceError.exit_code


class PanicException(BaseException):
    """As tokenizers raises it."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
        PanicException('IOError(Os { code: 11, kind: WouldBlock, message: "Resource temporarily unavailable" })'),
    ],
)
def test_a_thread_that_cannot_be_started_is_one_line(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_error(error) == ResourceError.exit_code
    assert re.fullmatch(r"Error: No more threads or processes can be started .*\n", capsys.readouterr().err)


def test_too_few_threads_are_noticed_before_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 4:
            raise RuntimeError("can't start new thread")
        begin(thread)

    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run_command(lambda: pytest.fail("it was run")) == 4
    assert "No more threads" in capsys.readouterr().err
    for thread in started[:3]:
        thread.join()  # forever, if nothing ended them


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files", "a"),
        ImportError("libx.so: cannot open shared object file: Too many open files"),
    ],
)
def test_too_few_file_descriptors(error: Exception) -> None:
    line = "Too many open files. Raise the limit of this shell, for example: ulimit -n 1024"
    assert summarize(error) == (line, ResourceError.exit_code)


def test_the_shell_completes_groups_choices_and_keys() -> None:
    """What ``llm-cls-train`` answers to a shell's Tab."""
    for line, expected in [
        ("llm-cls-train engine=", "engine=fast engine=fp8 engine=reference"),
        ("llm-cls-train lora.lora_", "lora.lora_alpha= lora.lora_dropout="),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", "from llm_cls.train import command; command()", "-sc", "query=bash"],
            env=os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == expected


def test_control_characters_of_users_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("文\x1b[2Jx\u202e") == "文\\x1b[2Jx\\u202e"
    assert print_error(ConfigError("a\x1b[31m\nb")) == 2
    assert capsys.readouterr().err == "Error: a\\x1b[31m\nError: b\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("dir=\udce6\udc9c\udcac", "dir=本 cannot be encoded in this locale, which is not UTF-8. Set PYTHONUTF8=1"),
        ("dir=\udcff", "dir=\\udcff must be UTF-8. Rename the file or folder, or type it again"),
        ("dir=\ud800", "dir=\\ud800 must be UTF-8. Rename the file or folder, or type it again"),
    ],
)
@pytest.mark.parametrize("name", [*COMMANDS, "train"])
def test_arguments_that_are_not_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str, line: str
) -> None:
    monkeypatch.setattr(sys, "argv", [name, text])
    assert run_command(COMMANDS.get(name, train).main) == 2
    assert capsys.readouterr() == ("", f"Error: {line}\n")


def test_a_folder_that_is_not_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As of Japanese folders in a locale without UTF-8; tokenizers would fail to write there, after the training."""
    folder = tmp_path / "\udcff"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["status", "dir=x"])
    assert run_command(status.main) == 2
    assert capsys.readouterr().err.startswith(f"Error: {tmp_path}/\\udcff must be UTF-8. Rename")


def test_unexpected_errors_keep_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        assert print_error(error) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_exits_without_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, flag: str
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "dir=x", flag])
    assert run_command(COMMANDS[name].main) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: python -m llm_cls.{name} ") and not err


def test_help_flag_may_be_anywhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "data=sample", "--help", "optimizer.lr=1"])
    assert run_command(train.main) == 0
    out, err = capsys.readouterr()
    assert out == f"{train_help()}\n" and not err
