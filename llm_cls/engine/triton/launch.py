"""Starting kernels: each is compiled at its first launch, or all of a pass are compiled side by side beforehand."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any

import triton

from llm_cls.cores import usable_cores

_only_compiles: ContextVar[bool] = ContextVar("only_compiles", default=False)


class Kernel:
    """A Triton function that is started as ``kernel[grid](...)``."""

    def __init__(self, function: Callable[..., None], **options: Any) -> None:
        """Takes the function and what ``triton.jit`` takes."""
        self._function: Any = triton.jit(function, **options)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        """What starts it."""
        launch: Callable[..., Any] = self._function[grid]
        return partial(self._function.warmup, grid=grid) if _only_compiles.get() else launch


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
    token = _only_compiles.set(True)
    try:
        with ThreadPoolExecutor(min(usable_cores(), 16)) as executor, triton.AsyncCompileMode(executor):
            run()
    finally:
        _only_compiles.reset(token)
