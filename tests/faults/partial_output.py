"""``python -m tests.faults.partial_output FOLDER``: writes an output in parts, or the rest of one."""

import sys
from pathlib import Path

from llm_cls.cli import run_command
from llm_cls.runs import partial
from llm_cls.runs.partial import PartialFile

PARTS = [f"{'row' * 3000} {i}\n".encode() for i in range(6)]  # larger than the buffer of a file


def write(folder: Path) -> int:
    """Writes the output; returns how many parts were there already."""
    partial._SYNC_SECONDS = 0.0  # type: ignore[misc]
    output = PartialFile(folder / "o.csv", {"of": "these parts"})
    try:
        done = output.rows
        for part in PARTS[done:]:
            output.append(part, 1)
        output.finish(_rename)
    finally:
        output.close()
    return done


def _rename(source: Path, target: Path) -> None:
    source.replace(target)


if __name__ == "__main__":
    sys.exit(run_command(lambda: write(Path(sys.argv[1]))))
