"""Compiles the Triton kernels for a GPU that need not be there: ``compile_kernels CAPABILITY [all|ranks]``.

The interpreter runs what the compiler refuses, such as a variable whose shape changes in a loop. Here every launch
compiles its kernel, down to machine code, and computes nothing.
"""

import sys
from contextlib import suppress
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from llm_cls.engine.attention import TRITON_HEAD_SIZES
from llm_cls.engine.kernels import ACTIVATIONS
from llm_cls.engine.spec import Scores
from llm_cls.engine.triton import lora
from llm_cls.engine.triton.launch import compile_together
from llm_cls.engine.triton.rotary import rotate

from . import kernel_checks as checks
from .attention_checks import SCORES, check_attention

SHARED_MEMORY = {75: 64, 80: 163, 89: 99, 90: 227}  # KiB that a program may have (CUDA C++ Programming Guide)
CPU = torch.device("cpu")
compiled: dict[tuple[str, int], Any] = {}


class Absent:
    """What Triton asks a driver for before it compiles."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


def launch(kernel: Any, grid: Any) -> Any:
    def compile_only(*args: Any, **kwargs: Any) -> None:
        found = kernel.run(*args, grid=grid, warmup=True, **kwargs)
        if found.metadata.shared > lora.shared_memory(CPU):
            raise RuntimeError(f"{kernel.fn.__name__} needs {found.metadata.shared} bytes of shared memory")
        compiled[kernel.fn.__name__, id(found)] = found

    return compile_only


def every_rank(capability: int) -> None:
    """Those for which ``takes_rank`` finds enough shared memory."""
    for dtype, rank in product((torch.bfloat16, torch.float16, torch.float32), (8, 64, 128, 256)):
        if lora.takes_rank(rank, dtype, CPU) and (capability >= 80 or dtype != torch.bfloat16):
            checks.check_lora("cpu", dtype, 4400, 256, 1, rank, 0.1)


def every_kernel(capability: int) -> None:
    for size, score in product(TRITON_HEAD_SIZES, SCORES):
        check_attention("cpu", torch.bfloat16, 4, 2, size, [1, 65], score)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for (cols, n, r), p in product([(640, 3, 32), (132, 1, 12)], [0.0, 0.1]):
            checks.check_lora("cpu", dtype, 70, cols, n, r, p)
        with suppress(AssertionError):  # nothing has been cast
            checks.check_casts("cpu", dtype)
        for rms, biased in product([False, True], [False, True]):
            checks.check_norm("cpu", dtype, rms, 2, biased, 5, 96)
        checks.check_norm("cpu", dtype, True, 1, False, 5, 96, post=True)
        for activation in sorted(set(ACTIVATIONS.values())):
            checks.check_activate("cpu", dtype, activation, True, False, 3, 1100)
        checks.check_rotate("cpu", dtype, 8, 6, 2)
        checks.check_head_norms("cpu", dtype, 8, 6, 2)
    if capability >= 90:  # others have no float8
        with suppress(AssertionError):
            checks.check_fp8("cpu", 3, 96, 1.0)


def kernels_together() -> None:
    """By ``compile_together``, which starts none; once compiled they are there."""
    found = [lora._keep_kernel, lora._down_kernel, lora._input_grad_kernel, lora._weight_grad_kernel]

    def run() -> None:
        checks.check_lora("cpu", torch.bfloat16, 70, 640, 3, 32, 0.1)

    with patch.object(CUDABackend, "make_cubin", side_effect=OSError), suppress(OSError):
        compile_together(run)
        raise AssertionError("a kernel that fails to compile is no error")
    compile_together(run)  # the failure is not kept
    assert all(kernel._function.device_caches[0][0] for kernel in found)
    with patch.object(JITFunction, "_do_compile", side_effect=AssertionError):
        compile_together(run)


def heads_of_80() -> None:
    """Read as vectors: one number at a time, the rotation of open-calm-3b's heads takes twice as long."""
    before = set(compiled)
    heads = torch.zeros(9, 4, 240, dtype=torch.bfloat16).split(80, 2)
    rotate(heads, heads, torch.zeros(9, dtype=torch.int32), torch.zeros(9, 40), torch.zeros(9, 40), 1)
    code = [compiled[each].asm["ptx"] for each in set(compiled) - before]
    assert code and not any(".global.b16" in each for each in code)


def some_kernels() -> None:
    check_attention("cpu", torch.bfloat16, 4, 2, 128, [1, 65], Scores(0.1))
    checks.check_lora("cpu", torch.bfloat16, 70, 640, 3, 32, 0.1)
    heads_of_80()


def main() -> None:
    capability = int(sys.argv[1])
    driver.set_active(Absent(capability))  # type: ignore[arg-type]
    lora.shared_memory = lambda _: SHARED_MEMORY[capability] * 1024  # type: ignore[assignment]
    checks.check = lambda *_: None  # type: ignore[assignment]
    checks.error = lambda *_: 0.0  # type: ignore[assignment]
    ranks = sys.argv[2:] == ["ranks"]
    if not ranks:
        kernels_together()
    JITFunction.__getitem__ = launch  # type: ignore[method-assign]
    if ranks:
        every_rank(capability)
    else:
        some_kernels()
    if sys.argv[2:] == ["all"]:
        every_kernel(capability)
    print(len(compiled), "kernels:", ", ".join(sorted({name for name, _ in compiled})))


if __name__ == "__main__":
    main()
