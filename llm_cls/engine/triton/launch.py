"""Starting kernels: each is compiled at its first launch, or all of a pass are compiled side by side beforehand."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from functools import cache, partial
from subprocess import SubprocessError
from typing import Any

import torch
import triton
from triton.runtime import driver

from llm_cls.cores import usable_cores
from llm_cls.errors import first_line

_compiled: ContextVar["set[Kernel] | None"] = ContextVar("compiled", default=None)  # None: kernels are started


@cache
def unusable_reason() -> str:
    """Why this machine cannot start kernels; empty if it can. Triton compiles its access to the GPU from C."""
    try:
        _ = driver.active
    except SubprocessError:
        found = "the compiler failed, its messages are above"
    except (AssertionError, ImportError, OSError, RuntimeError) as error:
        found = first_line(error)
    else:
        return ""
    return f"Triton needs a C compiler and Python's headers, such as the packages gcc and python3-dev: {found}"


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a program may have; more than enough where the interpreter runs it."""
    if device.type != "cuda":
        return 2**30
    size: int = driver.active.utils.get_device_properties(device.index)["max_shared_mem"]
    return size


class Kernel:
    """A Triton function that is started as ``kernel[grid](...)``."""

    def __init__(self, function: Callable[..., None], **options: Any) -> None:
        """Takes the function and what ``triton.jit`` takes."""
        self._function: Any = triton.jit(function, **options)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        """What starts it."""
        compiled = _compiled.get()
        if compiled is None:
            launch: Callable[..., Any] = self._function[grid]
            return launch
        compiled.add(self)
        return partial(self._function.warmup, grid=grid)

    def forget(self) -> None:
        """Drops all that is compiled, except for files."""
        self._function.device_caches.clear()


def kernel(**options: Any) -> Callable[[Callable[..., None]], Kernel]:
    """Decorates a ``Kernel``."""
    return partial(Kernel, **options)


def compile_together(run: Callable[[], object]) -> None:
    """Compiles all kernels that ``run`` starts, on all cores; Triton alone compiles one after the other.

    Args:
        run: Starts kernels as it will later; none of them computes now, so what ``run`` returns means nothing.
    """
    if triton.knobs.runtime.interpret:
        return
    compiled: set[Kernel] = set()

    def compile_all() -> None:
        _compiled.set(compiled)
        with ThreadPoolExecutor(min(usable_cores(), 16)) as executor, triton.AsyncCompileMode(executor):
            run()

    try:
        copy_context().run(compile_all)  # Triton leaves its mode switched on where a kernel fails to compile
    except BaseException:
        for each in compiled:  # the failure is kept as well, and would be that of every later launch
            each.forget()
        raise
