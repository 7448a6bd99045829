"""Starting kernels: each is compiled at its first launch, or all of a pass are compiled side by side beforehand."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

import triton

from llm_cls.cores import usable_cores

_compiled: ContextVar["set[Kernel] | None"] = ContextVar("compiled", default=None)  # None: kernels are started


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
