"""Checkpoints that are whole or absent, and that are read without running any code in them."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from llm_cls.errors import ArtifactError, first_line
from llm_cls.files import atomic_path

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
            checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            fault = first_line(error)
        else:
            if isinstance(checkpoint, dict) and RECORDER_KEY in checkpoint.get("callbacks", {}):
                return checkpoint
        raise ArtifactError(f"{path} is damaged: {fault.rstrip('.')}. Remove the run directory and start again")


def checkpoint_run_id(path: Path) -> str | None:
    """The run_id in a checkpoint; None where it has none.

    Raises:
        ArtifactError: The file is damaged.
    """
    found: str | None = AtomicCheckpointIO().load_checkpoint(path)["callbacks"][RECORDER_KEY].get("run_id")
    return found
