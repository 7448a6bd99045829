"""Several runs of a sweep, trained together in one process over one frozen decoder.

Each run is the ordinary ``training.run.run`` in a thread of its own, with its own trainer, optimizer, files and random
numbers. Only one thread runs at a time: a run continues until it needs its texts computed, and waits. Once all wait,
their texts go through the decoder together (``engine.joint``), and each run continues with its part. So a run does what
it does alone, in the same order, whatever happens to the others; one that ends makes room for the next.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llm_cls.engine.joint import JointPass, joint_layers
from llm_cls.engine.layers import FusedLayers
from llm_cls.engine.memory import Plan, free_bytes, plan
from llm_cls.engine.runner import FusedDecoder
from llm_cls.errors import RunInterrupted, lacks_memory
from llm_cls.training.concurrency import Concurrency
from llm_cls.training.run_thread import Backward, Forward, RunThread


@dataclass(frozen=True)
class _Joint:
    """The layers of some runs as one network, and what fits on the device."""

    networks: Sequence[FusedLayers]
    layers: FusedLayers
    memory: Plan


class _SinglePass:
    """What ``JointPass`` is for several runs: a single one computes as it does alone, with CUDA graphs."""

    def __init__(self, request: Forward) -> None:
        share = request.share
        pooled, self._pass = request.own.run(share.input_ids, share.seq_lens, share.rng)
        self.pooled: Sequence[Tensor] = [pooled]

    def backward(self, grads: Sequence[Tensor]) -> list[list[Tensor]]:
        return [self._pass.backward(grads[0])]


class JointTraining:
    """Trains runs together."""

    def __init__(self, concurrent: int | Literal["auto"]) -> None:
        """Takes ``sweep.concurrent``."""
        self._concurrent = concurrent
        self._joints: dict[tuple[int, ...], _Joint] = {}

    @torch.no_grad()
    def run(self, runs: Sequence[RunThread]) -> Sequence[RunThread]:
        """Trains until all have ended.

        Returns:
            Those that have not begun, because one run alone is faster than two.

        Raises:
            BaseException: What is no ``Exception`` and has ended a run or this thread; the other runs end with it.
        """
        pace = Concurrency(self._concurrent, len(runs))
        waiting, active = deque(runs), list[RunThread]()
        try:
            while active or (waiting and not (pace.settled and pace.most == 1 < len(runs))):
                while waiting and len(active) < pace.most:
                    active.append(waiting.popleft())
                    active[-1].resume()
                    active = self._still_active(active)
                self._round(active[: pace.most], pace)
                active = self._still_active(active)
        except BaseException as error:
            for thread in active:
                thread.end(error if isinstance(error, RunInterrupted) else RunInterrupted("Interrupted"))
            raise
        return waiting

    def _still_active(self, runs: Sequence[RunThread]) -> list[RunThread]:
        """Those that have not ended."""
        for run in runs:
            if run.error is not None and not isinstance(run.error, Exception):
                raise run.error
        active = [run for run in runs if run.request is not None]
        if len(active) < len(runs):
            self._joints.clear()  # it would keep their weights
        return active

    def _round(self, runs: Sequence[RunThread], pace: Concurrency) -> None:
        """One request of each run, and the backward pass of those that train."""
        started = time.perf_counter()
        training = [run for run in runs if isinstance(run.request, Forward) and run.request.save]
        evaluating = [run for run in runs if isinstance(run.request, Forward) and not run.request.save]
        tokens = sum(len(_request(run).share.input_ids) for run in training)
        groups = list(self._groups(training, save=True))
        if len(groups) > 1 and not pace.settled:
            pace.settle()  # more do not fit
        for group in groups:
            self._train(group)
        for group in self._groups(evaluating, save=False):
            self._evaluate(group)
        if training and not evaluating and not pace.settled:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            pace.observe(len(training), tokens, time.perf_counter() - started)

    def _groups(self, threads: Sequence[RunThread], save: bool) -> Iterator[list[RunThread]]:
        """The runs whose texts fit on the device together."""
        if not threads:
            return
        memory = self._joint([_request(thread).own for thread in threads]).memory
        limit = memory.max_tokens if save else memory.max_eval_tokens
        group: list[RunThread] = []
        tokens = 0
        for thread in threads:
            own = len(_request(thread).share.input_ids)
            if group and limit is not None and tokens + own > limit:
                yield group
                group, tokens = [], 0
            group.append(thread)
            tokens += own
        yield group

    def _train(self, group: Sequence[RunThread]) -> None:
        requests = [_request(thread) for thread in group]
        joint = self._forward_of(group, True, self._train)
        if joint is None:
            return
        for thread, pooled in zip(group, joint.pooled, strict=True):
            thread.resume(pooled)
        # A run that has failed in its loss needs no gradients, but its rows are there.
        grads = [
            thread.request.grad if isinstance(thread.request, Backward) else torch.zeros_like(pooled)
            for thread, pooled in zip(group, joint.pooled, strict=True)
        ]
        answers: Sequence[Any]
        try:
            answers = self._gradients(joint, requests, grads)
        except Exception as error:
            answers = [error] * len(group)
        for thread, answer in zip(group, answers, strict=True):
            if isinstance(thread.request, Backward):
                thread.resume(answer)

    def _evaluate(self, group: Sequence[RunThread]) -> None:
        joint = self._forward_of(group, False, self._evaluate)
        for thread, pooled in zip(group, joint.pooled, strict=True) if joint else ():
            thread.resume(pooled)

    def _forward_of(
        self, group: Sequence[RunThread], save: bool, action: Callable[[Sequence[RunThread]], None]
    ) -> JointPass | _SinglePass | None:
        """The forward pass of a group; None where it has failed.

        ``action`` then gets each half of a group that does not fit; where that is not the reason, its runs fail.
        """
        try:
            return self._forward([_request(thread) for thread in group], save)
        except Exception as error:
            fault = None if lacks_memory(error) and len(group) > 1 else error
        if fault is not None:
            for thread in group:
                thread.resume(fault)
            return None
        # Here the error is gone: its traceback would keep the memory of the pass.
        action(group[: len(group) // 2])
        action(group[len(group) // 2 :])
        return None

    def _forward(self, requests: Sequence[Forward], save: bool) -> JointPass | _SinglePass:
        if len(requests) == 1 and save:
            return _SinglePass(requests[0])
        joint = self._joint([request.own for request in requests])
        shares = [request.share for request in requests]
        first, tokens = requests[0].own, sum(len(share.input_ids) for share in shares)
        recompute_layers = first.recompute_layers(tokens, joint.memory)
        return JointPass(joint.layers, joint.networks, shares, first.max_seqlen, save, recompute_layers)

    def _gradients(
        self, joint: JointPass | _SinglePass, requests: Sequence[Forward], grads: Sequence[Tensor]
    ) -> Sequence[Sequence[Tensor]]:
        """The gradients of each run; where they do not fit, in two passes."""
        try:
            return joint.backward(grads)
        except Exception as error:
            if not lacks_memory(error) or len(requests) == 1:
                raise
        middle = len(requests) // 2
        halves = [(requests[:middle], grads[:middle]), (requests[middle:], grads[middle:])]
        return [run for some, own in halves for run in self._gradients(self._forward(some, save=True), some, own)]

    def _joint(self, runs: Sequence[FusedDecoder]) -> _Joint:
        key = tuple(map(id, runs))
        if key not in self._joints:
            networks = [run.network for run in runs]
            layers = joint_layers(networks)
            device = layers.embedding.device
            memory = plan(layers, free_bytes(device) if device.type == "cuda" else None, graph_tokens=0)
            self._joints[key] = _Joint(networks, layers, memory)
        return self._joints[key]


def _request(thread: RunThread) -> Forward:
    assert isinstance(thread.request, Forward)
    return thread.request
