"""What all commands share: exit codes, one-line errors, signals, quiet libraries."""

import errno
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel

from llm_cls.config.help import command_help
from llm_cls.config.messages import validate
from llm_cls.errors import EXIT_UNEXPECTED, ConfigError, LlmClsError, ResourceError, RunInterrupted, first_line
from llm_cls.signals import install_handlers, remove_handlers, signals_first

T = TypeVar("T", bound=BaseModel)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PLACE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT,
          errno.ENAMETOOLONG, errno.ELOOP}  # fmt: skip
_FOLDERS = "training: hydra.run.dir=DIR; its cache: data.cache_dir=DIR"


def run_command(command: Callable[[], object]) -> int:
    """Runs ``command`` and returns the exit code; an error that a user can mend is printed as one line a fault."""
    install_handlers()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever a terminal can't show must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        with signals_first():  # what a signal has cut short may fail later, with an error of its own
            command()
    except SystemExit:
        raise
    except BaseException as error:
        return report(error)
    finally:
        remove_handlers()
    return 0


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether ``arguments`` contain ``-h`` or ``--help``."""
    return not {"-h", "--help"}.isdisjoint(arguments)


def read_arguments(schema: type[T], name: str, more: str = "", arguments: Sequence[str] | None = None) -> T | None:
    """The validated ``key=value`` arguments of a command; None where its help was printed instead.

    The help is printed on request, and where there are no arguments although the command needs some.

    Args:
        schema: The section of the arguments.
        name: The command: ``python -m llm_cls.NAME``.
        more: What the help says after the keys.
        arguments: Those of the command line by default.

    Raises:
        ConfigError: Arguments are not of that form, unknown, missing or not valid, with a line for each.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    needed = any(field.is_required() for field in schema.model_fields.values())
    if wants_help(given) or (needed and not given):
        say(command_help(schema, name, more))
        return None
    if wrong := [argument for argument in given if "=" not in argument]:
        raise ConfigError(
            "\n".join(
                f"{argument} is not of the form key=value. Try python -m llm_cls.{name} --help" for argument in wrong
            )
        )
    return validate(schema, {key: value for key, _, value in (argument.partition("=") for argument in given)})


def say(text: str) -> None:
    """Prints ``text``; a reader who has gone, as that of ``| head``, is no fault of the command's."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(error: BaseException) -> int:
    """Prints what the user reads of ``error``, a line for each fault, and returns its exit code.

    Only an error that the user can't have caused is shown with its traceback.
    """
    known = _explained(error)
    if known is None:
        traceback.print_exception(error)
        return EXIT_UNEXPECTED
    for line in str(known).splitlines():
        print(f"Error: {printable(line)}", file=sys.stderr)
    return known.exit_code


def summarize(error: BaseException) -> tuple[str, int]:
    """The first line of what ``report`` prints, and the exit code, for the record."""
    known = _explained(error)
    if known is None:
        return printable(f"{type(error).__name__}: {error}".splitlines()[0]), EXIT_UNEXPECTED
    return printable(first_line(known)), known.exit_code


def _explained(error: BaseException) -> LlmClsError | RunInterrupted | None:
    return error if isinstance(error, LlmClsError | RunInterrupted) else _known(error)


def printable(text: str) -> str:
    """``text`` without control characters: what users give may hold anything, and terminals obey escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _known(error: BaseException | None) -> LlmClsError | None:
    """What of the errors of libraries and of the machine a user can mend; theirs may hide what was at the bottom."""
    while error is not None:
        text = str(error).strip()
        if isinstance(error, MemoryError) or re.search(r"out of memory|allocate memory|not enough memory", text, re.I):
            wanted = re.search(r"tried to allocate ([\d.]+ \w+)", text, re.I)
            return ResourceError(
                f"Out of memory{f': {wanted.group(1)} more were needed' if wanted else ''}. Try a smaller "
                "data.micro_batch_size (it changes memory and speed only), a smaller data.max_length, or "
                "engine.gradient_checkpointing=true"
            )
        if isinstance(error, OSError) and error.errno in _FULL | _PLACE:
            where = f"{error.filename}: " if error.filename else ""
            fix = "Free some space, or write" if error.errno in _FULL else "Write"
            return ResourceError(f"{where}{os.strerror(error.errno)}. {fix} to another folder ({_FOLDERS})")
        if match := re.search(r"No space left on device|Disk quota exceeded|File too large", text):
            return ResourceError(f"{match.group()}. Free some space, or write to another folder ({_FOLDERS})")
        error = error.__cause__ or error.__context__
    return None


def quiet_libraries() -> None:
    """Keeps the log to what a user of this package can use. Lightning sets its levels when it is imported."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "torch.distributed", "httpx", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.raiseExceptions = False  # a log line that can't be written is no fault of the run
    warnings.filterwarnings("ignore", module=r"(lightning|torch|peft|transformers)\..*")
