"""Whether a run can be written to its directory, found before the training rather than after it."""

import os
from pathlib import Path

from llm_cls.errors import ResourceError
from llm_cls.runs import layout

_FOLDERS = (layout.MODEL, layout.PREDICTIONS, layout.CHECKPOINTS)
_FILES = (
    layout.LOG, layout.LOCK, layout.CONFIG, layout.RECORD, layout.HISTORY, layout.METRICS, layout.FAILURE,
    f"{layout.PREDICTIONS}/val.jsonl", f"{layout.PREDICTIONS}/test.jsonl",
    layout.MANIFEST,
)  # fmt: skip


def check_writable(directory: Path) -> None:
    """Checks that nothing is where the folders and files of a run belong, or that it can be written.

    Raises:
        ResourceError: Something is in the way.
    """
    for folder in (directory, *(directory / name for name in _FOLDERS)):
        if os.path.lexists(folder) and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise ResourceError(f"{folder} must be a writable folder. Move what is there out of the way")
    for file in (directory / name for name in _FILES):
        if os.path.lexists(file) and not (file.is_file() and os.access(file, os.W_OK)):
            raise ResourceError(f"{file} must be a writable file. Move what is there out of the way")
