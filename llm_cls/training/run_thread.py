"""A run as a thread that takes turns with the other runs of its pass; ``joint.py`` resumes them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from llm_cls.engine.joint import Share
from llm_cls.engine.runner import FusedDecoder


@dataclass(frozen=True)
class Forward:
    """A run waits for the pooled states of its texts.

    Attributes:
        own: The run's decoder.
        share: The texts.
        save: Whether their gradients come next.
    """

    own: FusedDecoder
    share: Share
    save: bool


@dataclass(frozen=True)
class Backward:
    """A run waits for the gradients of its adapters; ``grad`` is with respect to the pooled states."""

    grad: Tensor


class RunThread(threading.Thread):
    """One run. It and the thread that resumes it take turns.

    Attributes:
        request: What the run waits for; None once it has ended.
        result: What it has returned.
        error: What it has raised.
    """

    def __init__(self, name: str, action: Callable[[], Any]) -> None:
        """Starts with the first ``resume``."""
        super().__init__(name=name, daemon=True)
        self._action = action
        # A signal may come at any moment. It leaves a queue whole, but may leave a semaphore locked for ever.
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._requests: SimpleQueue[Forward | Backward | None] = SimpleQueue()
        self._random_state = torch.get_rng_state()
        self.request: Forward | Backward | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def resume(self, answer: Any = None) -> None:
        """Lets the run continue with ``answer``, which it raises if it is an exception, until its next request."""
        self.request = None
        if self.ident is None:
            self.start()
        torch.set_rng_state(self._random_state)
        self._answers.put(answer)
        self.request = self._requests.get()
        self._random_state = torch.get_rng_state()

    def ask(self, request: Forward | Backward) -> Any:
        """Called by the run: the answer to ``request``."""
        self._requests.put(request)
        return self._next_answer()

    def _next_answer(self) -> Any:
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def run(self) -> None:
        """The life of the thread."""
        try:
            self._next_answer()
            self.result = self._action()
        except BaseException as error:
            self.error = error
        finally:
            self._requests.put(None)

    def end(self, error: BaseException) -> None:
        """Makes the run end with ``error``, wherever it is; it may be computing after an interrupted ``resume``."""
        while self.is_alive():
            self._answers.put(error)
            self.join(timeout=1.0)


class JointEncoder:
    """The ``Encoder`` of one run: its texts are computed together with those of the other runs."""

    layers = "fused"

    def __init__(self, own: FusedDecoder) -> None:
        """Takes the decoder that the run would use alone."""
        self._own = own
        self._pooled: Tensor | None = None

    @property
    def max_tokens(self) -> int | None:
        """See ``Encoder``."""
        return self._own.max_tokens

    @property
    def max_eval_tokens(self) -> int | None:
        """See ``Encoder``."""
        return self._own.max_eval_tokens

    def __call__(self, input_ids: Tensor, seq_lens: Sequence[int], first_token: int, training: bool) -> Tensor:
        """See ``Encoder``; a backward pass of the result ends there, and ``backward`` continues it."""
        save = torch.is_grad_enabled() and bool(self._own.network.parameters)
        share = Share(input_ids, seq_lens, self._own.draw_rng(first_token, training))
        pooled: Tensor = _this_run().ask(Forward(self._own, share, save))
        self._pooled = pooled.requires_grad_() if save else None
        return pooled

    def backward(self) -> None:
        """Adds the gradients of the adapters to those that they have, after autograd's backward pass.

        It is no part of autograd, which computes the backward passes of all threads in one: none of them could wait.
        """
        pooled, self._pooled = self._pooled, None
        if pooled is None:
            return
        assert pooled.grad is not None
        gradients = _this_run().ask(Backward(pooled.grad))
        for parameter, gradient in zip(self._own.network.parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def release(self) -> None:
        """See ``Encoder``."""
        self._own.release()


def _this_run() -> RunThread:
    thread = threading.current_thread()
    assert isinstance(thread, RunThread)
    return thread
