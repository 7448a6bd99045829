"""Which devices a run uses and in which precision."""

import os
import platform
from dataclasses import dataclass

import torch

from llm_cls.config.schema import TrainerConfig
from llm_cls.cores import usable_cores
from llm_cls.data.batches import SCORING_TEXTS
from llm_cls.errors import ConfigError


@dataclass(frozen=True)
class Hardware:
    """The devices of a run.

    Attributes:
        accelerator: "cpu" or "gpu".
        devices: Processes on this machine, each with one device.
        num_nodes: Machines.
        precision: Lightning's name of it.
        frozen_dtype: Type of the weights that are not trained.
    """

    accelerator: str
    devices: int
    num_nodes: int
    precision: str
    frozen_dtype: torch.dtype

    @property
    def world_size(self) -> int:
        """Processes over all machines."""
        return self.devices * self.num_nodes

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        if self.accelerator == "cpu":
            return torch.device("cpu")
        # SLURM has its own variable for the number of a task on its machine.
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))))

    @property
    def description(self) -> str:
        """The device's name for ``run.json``."""
        if self.accelerator == "gpu":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()} CPU, {usable_cores()} cores"

    def scoring_batch_size(self, wanted: int | None) -> int:
        """Texts per forward pass of scoring: the user's number, or what suits the device."""
        return wanted or SCORING_TEXTS[self.device.type]

    @property
    def cpu_numerics(self) -> tuple[int | None, str | None]:
        """Threads and instructions of torch, on which the last digits depend; None on a GPU."""
        if self.accelerator == "gpu":
            return None, None
        return torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()


def resolve_hardware(config: TrainerConfig) -> Hardware:
    """The devices and precision that the configuration means on this machine.

    Raises:
        ConfigError: There are fewer devices than requested, or they do not support the precision.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.accelerator == "gpu" and not found:
        raise ConfigError("trainer.accelerator=gpu, but torch sees no GPU on this machine. Try trainer=cpu")
    accelerator = "gpu" if found and config.accelerator != "cpu" else "cpu"
    if accelerator == "gpu":
        devices = found if config.devices == "auto" else config.devices
        if devices > found:
            raise ConfigError(f"trainer.devices must be <= {found}, the GPUs of this machine, got {devices}")
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = config.precision if config.precision != "auto" else "bf16-mixed" if bf16 else "16-mixed"
    else:
        devices = 1 if config.devices == "auto" else config.devices
        precision = "32-true" if config.precision == "auto" else config.precision
        if precision == "16-mixed":
            raise ConfigError("trainer.precision=16-mixed needs a GPU. Try trainer.precision=bf16-mixed")
    dtypes = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    return Hardware(accelerator, devices, config.num_nodes, precision, dtypes[precision])


def check_fp8(hardware: Hardware) -> None:
    """Checks that engine=fp8 can run.

    Raises:
        ConfigError: The device does not support products of 8-bit floats, or the precision is not bf16.
    """
    if hardware.accelerator != "gpu" or torch.cuda.get_device_capability(hardware.device) < (9, 0):
        raise ConfigError(
            "engine=fp8 needs a GPU of compute capability 9.0 or higher (H100, H200 and later), "
            f"got {hardware.description}. Try engine=fast"
        )
    if hardware.precision != "bf16-mixed":
        raise ConfigError(f"engine=fp8 needs trainer.precision=bf16-mixed, got {hardware.precision}. Try engine=fast")


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory in GiB: on a GPU since the start of the run, otherwise main memory since the start of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # macOS counts bytes, Linux KiB


def reset_peak_memory(device: torch.device) -> None:
    """Resets the peak on the GPU, which earlier runs of this process have set; that of main memory cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
