"""``python -m llm_cls.dashboard [dir=outputs]``: local runs in W&B's terminal viewer, without an account."""

import os
import sys
import tempfile
from pathlib import Path

from llm_cls.cli import run_command
from llm_cls.config.arguments import read_arguments
from llm_cls.config.commands import DashboardArguments
from llm_cls.errors import ConfigError, DataError


def main() -> None:
    """The command."""
    if (arguments := read_arguments(DashboardArguments, "dashboard")) is None:
        return
    directory = arguments.dir
    if not directory.is_dir():
        raise ConfigError(f"dir={directory} is not a directory. Give the one that training writes to")
    with tempfile.TemporaryDirectory() as folder:
        if not gather(directory, Path(folder) / "wandb"):
            raise DataError(f"dir={directory} has no W&B runs. Train with logger=wandb, which is the default")
        viewer = [sys.executable, "-m", "wandb", "leet", str(Path(folder) / "wandb")]
        os.spawnv(os.P_WAIT, sys.executable, viewer)


def gather(directory: Path, folder: Path) -> int:
    """Links all W&B runs below ``directory`` into ``folder``, where the viewer finds them; returns their number."""
    folder.mkdir()
    runs = [path for path in directory.rglob("wandb/*run-*") if path.is_dir() and not path.is_symlink()]
    for run in runs:
        (folder / run.name).symlink_to(run.resolve())
    return len(runs)


if __name__ == "__main__":
    sys.exit(run_command(main))
