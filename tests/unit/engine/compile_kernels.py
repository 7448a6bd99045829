"""Compiles the Triton kernels for a GPU that need not be there: ``compile_kernels CAPABILITY [all]``.

The interpreter runs what the compiler refuses, such as a variable whose shape changes in a loop. Here every launch
compiles its kernel, down to machine code, and computes nothing.
"""

import sys
from contextlib import suppress
from itertools import product
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from llm_cls.engine.attention import TRITON_HEAD_SIZES
from llm_cls.engine.kernels import ACTIVATIONS
from llm_cls.engine.spec import Scores

from . import kernel_checks as checks

compiled: set[tuple[str, int]] = set()


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
        assert found.metadata.shared <= 163 * 1024, "shared memory of an A100"
        compiled.add((kernel.fn.__name__, id(found)))

    return compile_only


def main() -> None:
    driver.set_active(Absent(int(sys.argv[1])))  # type: ignore[arg-type]
    JITFunction.__getitem__ = launch  # type: ignore[method-assign]
    checks.check = lambda *_: None  # type: ignore[assignment]
    checks.error = lambda *_: 0.0  # type: ignore[assignment]
    everything = sys.argv[2:] == ["all"]
    dtypes = [torch.bfloat16, torch.float32] if everything else [torch.bfloat16]
    scores = [Scores(0.1), Scores(0.1, 40), Scores(0.1, softcap=0.5), Scores(0.1, 70, 0.5)]
    for size, score in product(TRITON_HEAD_SIZES, scores) if everything else [(128, scores[0]), (256, scores[0])]:
        checks.check_attention("cpu", torch.bfloat16, 4, 2, size, [1, 65], score)
    for dtype in dtypes:
        for (cols, n, r), p in product([(640, 3, 32), (132, 1, 12)], [0.0, 0.1] if everything else [0.1]):
            checks.check_lora("cpu", dtype, 70, cols, n, r, p)
        with suppress(AssertionError):  # nothing has been cast
            checks.check_casts("cpu", dtype)
        for rms, biased in product([False, True], [False, True]) if everything else [(True, False)]:
            checks.check_norm("cpu", dtype, rms, 2, biased, 5, 96)
        for activation in sorted(set(ACTIVATIONS.values())) if everything else ["silu"]:
            checks.check_activate("cpu", dtype, activation, True, False, 3, 1100)
        checks.check_rotate("cpu", dtype, 8, 6, 2)
        checks.check_head_norms("cpu", dtype, 8, 6, 2)
    if everything:
        with suppress(AssertionError):
            checks.check_fp8("cpu", 3, 96, 1.0)
    print(len(compiled), "kernels:", ", ".join(sorted({name for name, _ in compiled})))


if __name__ == "__main__":
    main()
