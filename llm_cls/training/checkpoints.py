"""Checkpoints that are whole or absent, that are checked before use, and that run no code when they are read."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from llm_cls.errors import ArtifactError, OtherRunError, first_line
from llm_cls.files import atomic_path, check_digest
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.layout import CHECKPOINT_FILES

Found = tuple[Path | None, list[str]]  # the checkpoint to resume from, and what is wrong with newer ones
RECORDER_KEY = "run_recorder"  # under which ``RunRecorder`` keeps its state


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written atomically and read as tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes beside the target and renames."""
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:  # a full disk is an OSError here
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads tensors and plain values only.

        Raises:
            ArtifactError: The file is damaged.
        """
        fault = "it is not a checkpoint of a run"
        try:
            if fnmatch(Path(path).name, CHECKPOINT_FILES):
                check_digest(Path(path))
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            fault = first_line(error)
        else:
            callbacks = checkpoint.get("callbacks") if isinstance(checkpoint, dict) else None
            if isinstance(callbacks, dict) and isinstance(callbacks.get(RECORDER_KEY), dict):
                return checkpoint
        raise ArtifactError(f"{path} is damaged: {fault.rstrip('.')}")


def find_checkpoint(directory: RunDirectory, run_id: str) -> Found:
    """The newest undamaged checkpoint of a run, if there is any, and what is wrong with newer ones.

    Raises:
        OtherRunError: All checkpoints that could be read are of other runs.
        ArtifactError: All checkpoints are damaged.
    """
    faults: list[str] = []
    foreign = False
    for path in directory.checkpoints:
        try:
            found = AtomicCheckpointIO().load_checkpoint(path)["callbacks"][RECORDER_KEY].get("run_id")
        except ArtifactError as error:
            faults.append(str(error))
            continue
        # The run_id of schema 1 was another hash of the same run.
        if found == run_id or not fnmatch(path.name, CHECKPOINT_FILES):
            return path, faults
        faults.append(f"{path} belongs to a run of another configuration")
        foreign = True
    if not faults:
        return None, []
    if foreign:
        raise OtherRunError(f"{faults[0]}. Give another hydra.run.dir, or in a sweep another sweep.name")
    raise ArtifactError(f"{faults[0]}. No other checkpoint is left: remove {directory.path} and start again")
