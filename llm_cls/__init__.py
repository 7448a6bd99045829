"""Fine-tune decoder LLMs with LoRA as text classifiers.

``llm_cls.load(run).predict(["..."])`` labels texts with a finished run; everything else is a command.
"""

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llm_cls.training.interface import Classifier

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(
    run: str | os.PathLike[str],
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    trust_remote_code: bool = False,
    calibrated: bool = False,
) -> "Classifier":
    """Verifies a finished run and loads it for use in this process.

    Args:
        run: The run directory.
        accelerator: Kind of device; "auto" uses a GPU if there is one.
        trust_remote_code: Whether code of the pretrained model may run. The run itself cannot allow it.
        calibrated: Whether the probabilities get the calibration that ``llm_cls.calibrate`` has stored in the run.

    Raises:
        llm_cls.errors.LlmClsError: The run is not finished, is damaged, has no calibration, or cannot run here.
    """
    from llm_cls.training.interface import load_classifier  # torch takes seconds to import

    return load_classifier(run, accelerator, trust_remote_code, calibrated)
