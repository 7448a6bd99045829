"""What a run measures of its devices."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule

from llm_cls.config.schema import TrainerConfig
from llm_cls.errors import ConfigError
from llm_cls.runs.directory import RunDirectory
from llm_cls.training import recorder
from llm_cls.training.devices import check_fp8, peak_memory_gib, reset_peak_memory, resolve_hardware


def test_the_peak_of_an_earlier_run_of_a_sweep_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = {torch.device("cuda", 1): 8 * 2**30}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.update({device: 2**30}))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[device])
    device = torch.device("cuda", 1)
    assert peak_memory_gib(device) == 8
    reset_peak_memory(device)
    assert peak_memory_gib(device) == 1


def test_main_memory_is_measured_without_a_gpu() -> None:
    before = peak_memory_gib(torch.device("cpu"))
    block = torch.ones(2**26)  # 256 MiB, touched
    reset_peak_memory(torch.device("cpu"))
    assert peak_memory_gib(torch.device("cpu")) >= max(before, block.nbytes / 2**30)


def test_each_run_of_a_process_begins_with_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forgotten: list[torch.device] = []
    monkeypatch.setattr(recorder, "reset_peak_memory", forgotten.append)
    device = torch.device("cuda", 1)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=device))
    recorder.RunRecorder(RunDirectory(tmp_path), 1, "id", None).on_fit_start(trainer, LightningModule())
    assert forgotten == [device]


def test_8_bit_floats_need_a_gpu_that_multiplies_them() -> None:
    hardware = resolve_hardware(TrainerConfig(accelerator="cpu"))
    with pytest.raises(ConfigError, match=r"^engine=fp8 needs a GPU of compute capability 9\.0.*Try engine=fast$"):
        check_fp8(hardware)
