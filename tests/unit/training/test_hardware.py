"""What a device lacks is said in one line."""

import pytest

from llm_cls.config import TrainerConfig
from llm_cls.errors import ConfigError
from llm_cls.training.hardware import check_fp8, resolve_hardware


def test_8_bit_floats_need_a_gpu_that_multiplies_them() -> None:
    hardware = resolve_hardware(TrainerConfig(accelerator="cpu"))
    with pytest.raises(ConfigError, match=r"^engine=fp8 needs a GPU of compute capability 9\.0.*Try engine=fast$"):
        check_fp8(hardware)
