"""Standard input and standard output as tables."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_cls.config.scoring import STANDARD
from llm_cls.errors import ConfigError
from llm_cls.files import errors_of


def check_standard_streams(input: Path, output: Path) -> None:
    """Checks that those standard streams exist that are to be read or written.

    Raises:
        ConfigError: One is closed, as with ``<&-`` in a shell.
    """
    if str(input) == STANDARD and sys.stdin is None:
        raise ConfigError("input=- needs standard input, which is closed. Give input=FILE")
    if str(output) == STANDARD and sys.stdout is None:
        raise ConfigError("output=- needs standard output, which is closed. Give output=FILE")


@contextmanager
def input_file(path: Path, format: str | None) -> Iterator[Path]:
    """The file ``path``, or one with all of standard input, whose name ends with ``format``.

    Standard input is read to its end first, so that it is read as any other table is, and an interrupted command can
    continue with the same input.
    """
    if str(path) != STANDARD:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="llm_cls-") as folder:
        copy = Path(folder) / f"standard-input.{format}"
        with errors_of(copy), copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield copy


class StandardOutput:
    """Standard output as the output of a command; see ``runs.partial.PartialFile``.

    Attributes:
        rows: Rows that were written.
    """

    def __init__(self) -> None:
        """Nothing is written yet."""
        self.rows = 0

    def append(self, content: bytes, rows: int) -> None:
        """Writes the bytes of the next ``rows`` rows.

        Raises:
            BrokenPipeError: Its reader has gone.
        """
        with errors_of(Path("standard output")):
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        self.rows += rows

    def finish(self, make: Callable[[Path, Path], None]) -> None:
        """All rows are written."""

    def close(self) -> None:
        """Nothing is left to do."""
