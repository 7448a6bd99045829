"""What all commands share: exit codes, errors in one line, signals, quiet libraries."""

import errno
import io
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import NoReturn

from llm_cls.cores import share_cores
from llm_cls.errors import (
    EXIT_UNEXPECTED,
    ConfigError,
    LlmClsError,
    ResourceError,
    RunInterrupted,
    first_line,
    lacks_memory,
)
from llm_cls.redaction import redact, redact_logs
from llm_cls.signals import install_handlers, remove_handlers, signals_first

_MOST_THREADS = 512  # to try
_FOLDERS = "training: hydra.run.dir=DIR; its cache: data.cache_dir=DIR"
_FREE = f"Free some space, or write to another folder ({_FOLDERS})"
_FIXES = {  # whether a file was read or written is not known here
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FREE),
    errno.EROFS: f"Write to another folder ({_FOLDERS})",
    errno.EIO: "Check the disk, or use another one",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Check the permissions, or give another path"),
    **dict.fromkeys((errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP), "Check the path"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "Check the path: a file is where a folder must be"),
    errno.EISDIR: "Check the path: a folder is where a file must be",
}


def run_command(command: Callable[[], object]) -> int:
    """Runs ``command`` and returns the exit code; a fault that the user can fix is printed as one line.

    A rank that fails ends here: see ``end_now``.
    """
    install_handlers()
    redact_logs()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal cannot show must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_encoding([*sys.argv[1:], str(Path.cwd())])
        with signals_first():  # an interrupted library may raise its own error afterwards
            _check_threads()
            share_cores()
            command()
    except SystemExit:
        raise
    except BaseException as error:
        code = print_error(error)
        if _has_process_group():
            end_now(code)
        return code
    finally:
        remove_handlers()
    return 0


def end_now(code: int) -> NoReturn:
    """Ends this process with the exit code ``code``, without Python's clean-up, for a rank that failed.

    In the clean-up torch may wait for a lost rank once more. A thread of torch that then frees the tensors of a failed
    collective needs the interpreter, which ends the thread within C++ code and so aborts the process.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or None
            stream.flush()
    os._exit(code)


def _has_process_group() -> bool:
    distributed = sys.modules.get("torch.distributed")  # most commands do not import it
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _check_threads() -> None:
    """Checks that the libraries can start their threads: where they cannot, OpenBLAS sends this process SIGINT.

    Raises:
        ResourceError: The system allows too few.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    # Pools of OpenBLAS, OpenMP and tokenizers, and single threads of torch, transformers and tqdm.
    wanted = 3 * (int(threads) if threads.isdecimal() else os.cpu_count() or 1) + 6
    done = threading.Event()
    try:
        for _ in range(min(wanted, _MOST_THREADS)):
            threading.Thread(target=done.wait, daemon=True).start()
    except RuntimeError:
        raise _too_few_threads() from None
    finally:
        done.set()


def _too_few_threads() -> ResourceError:
    return ResourceError(
        "No more threads or processes can be started on this machine or in this container. End other processes, set "
        "OMP_NUM_THREADS=1, or raise the limit (ulimit -u, or the pids limit of the container)"
    )


def say(text: str) -> None:
    """Prints ``text``; a closed pipe, as with ``| head``, is not an error."""
    try:
        print(redact(text), flush=True)
    except BrokenPipeError:
        drop_stdout()


def note(text: str) -> None:
    """Prints a line beside the results: to stderr."""
    if sys.stderr is not None:
        print(printable(text), file=sys.stderr, flush=True)


def drop_stdout() -> None:
    """Sends what is still written to stdout nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shown_path(path: Path) -> str:
    """``path`` as people type it: relative if it is below the current folder, otherwise absolute."""
    whole, here = path.absolute(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


@contextmanager
def redacted_stdout() -> Iterator[None]:
    """Collects what the block prints to stdout, and prints it without secrets when the block ends."""
    with redirect_stdout(io.StringIO()) as shown:
        yield
    say(shown.getvalue().removesuffix("\n"))


def print_error(error: BaseException, run: str = "") -> int:
    """Prints ``error``, one line per fault, and returns its exit code.

    Only an unexpected error is shown with its traceback.

    Args:
        error: What was raised.
        run: The name of the run in which it was, where there are several.
    """
    where = f"{run}: " if run else ""
    known = _known(error)
    if known is None:
        sys.stderr.write(redact("".join([where, *traceback.format_exception(error)])))
        return EXIT_UNEXPECTED
    for line in str(known).splitlines():
        print(f"Error: {printable(where + line)}", file=sys.stderr)
    return known.exit_code


def summarize(error: BaseException) -> tuple[str, int]:
    """The first line of what ``print_error`` prints, and the exit code, for the record."""
    known = _known(error)
    if known is None:
        return printable(f"{type(error).__name__}: {error}".splitlines()[0]), EXIT_UNEXPECTED
    return printable(first_line(known)), known.exit_code


def printable(text: str) -> str:
    """``text`` without secrets and with control characters escaped: user input may contain anything."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in redact(text))  # terminals obey escapes


def _check_encoding(texts: Sequence[str]) -> None:
    """Refuses arguments and folders that Python could not decode: libraries fail on them, some only after training.

    Raises:
        ConfigError: One is not text in this locale.
    """
    for argument in texts:
        try:
            argument.encode()
        except UnicodeEncodeError:
            try:
                text = os.fsencode(argument).decode()
            except UnicodeError:
                raise ConfigError(f"{argument} must be UTF-8. Rename the file or folder, or type it again") from None
            raise ConfigError(
                f"{text} cannot be encoded in this locale, which is not UTF-8. Set PYTHONUTF8=1"
            ) from None


def _known(raised: BaseException) -> LlmClsError | RunInterrupted | None:
    """``raised`` as an error that the user can fix; None if it is unexpected.

    Errors of libraries and of the machine may be hidden behind others.
    """
    if isinstance(raised, LlmClsError | RunInterrupted):
        return raised
    error: BaseException | None = raised
    while error is not None:
        text = str(error).strip()
        if lacks_memory(error):
            wanted = re.search(r"tried to allocate ([\d.]+ \w+)", text, re.I)
            return ResourceError(
                f"Out of memory{f': {wanted.group(1)} more were needed' if wanted else ''}. Try a smaller "
                "data.micro_batch_size (it changes memory and speed only), a smaller data.max_length, or "
                "engine.gradient_checkpointing=true"
            )
        if re.search(r"can't start new thread|Resource temporarily unavailable|thread creation failed", text, re.I):
            return _too_few_threads()
        if "Too many open files" in text:
            return ResourceError("Too many open files. Raise the limit of this shell, for example: ulimit -n 1024")
        if isinstance(error, OSError) and error.errno in _FIXES:
            where = f"{error.filename}: " if error.filename else ""
            return ResourceError(f"{where}{os.strerror(error.errno)}. {_FIXES[error.errno]}")
        if match := re.search(r"No space left on device|Disk quota exceeded|File too large", text):
            return ResourceError(f"{match.group()}. {_FREE}")
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Appends what this thread logs to the log of a run, in Hydra's format; without lines there is no file."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    this_thread = threading.get_ident()
    handler.addFilter(lambda record: record.thread == this_thread)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def quiet_libraries() -> None:
    """Limits the log to what a user of this package can use. Lightning sets its levels when it is imported."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "torch.distributed", "httpx", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)
    redact_logs()  # in the processes of launchers as well, which do not call run_command
    logging.raiseExceptions = False  # a log line that cannot be written must not end a run
    warnings.filterwarnings("ignore", module=r"(lightning|torch|peft|transformers)\..*")
