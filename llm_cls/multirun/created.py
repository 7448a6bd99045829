"""What Hydra creates for a run before llm_cls is called, so that a refused run leaves nothing, and removes no more."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from llm_cls.files import missing_folders
from llm_cls.runs import layout

_SAVED = ("config.yaml", "hydra.yaml", "overrides.yaml")  # by Hydra, in hydra.output_subdir


def created_paths() -> list[Path]:
    """The files and folders of this process's run that did not exist before."""
    noted = HydraConfig.get().callbacks.get("created") or {}
    return [Path(path) for path in noted.get("paths", ())]


class NoteCreated(Callback):
    """Notes the files and folders that are missing before Hydra creates them.

    Hydra makes the object, and its configuration is all that a run can read of it.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """See ``hydra.experimental.callback.Callback``."""
        with suppress(OmegaConfBaseException):  # Hydra reports it when it creates the folder
            created = _missing(Path(config.hydra.run.dir).absolute(), config.hydra.output_subdir)
            with read_write(config), open_dict(config):
                config.hydra.callbacks.created.paths = list(map(str, created))


def _missing(directory: Path, output_subdir: str | None) -> list[Path]:
    files = [directory / layout.LOG, directory / layout.LOCK]
    folder = directory
    if output_subdir is not None:
        folder = directory / output_subdir
        files += [folder / name for name in _SAVED]
    missing = [file for file in files if not os.path.lexists(file)]
    return list(dict.fromkeys([*missing, *missing_folders(folder), *missing_folders(directory)]))
