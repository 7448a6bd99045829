"""The small tensor types that the parts of the engine pass to one another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

FP8_MAX = 448.0  # the largest number of float8_e4m3fn


@dataclass(frozen=True)
class Norm:
    """The parameters of a layer norm, or with ``rms`` of a root-mean-square norm; frozen.

    Attributes:
        weight: Shape ``(hidden_size,)``; the factor itself, also where a family stores another form of it.
        bias: Shape ``(hidden_size,)``, or None.
        eps: Added to the variance.
        rms: Whether the mean is not subtracted.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool


class DropoutState(NamedTuple):
    """The numbers from which the dropout masks of a batch are drawn.

    Attributes:
        rng: int64 ``[seed, first_token]`` on the device: the seed of the optimizer step, and the number of its tokens
            that come before this batch.
        token_index: int64, the token of the batch that each row belongs to; None: one row per token, in order.
    """

    rng: Tensor
    token_index: Tensor | None = None


class JointState(NamedTuple):
    """Which rows of a batch of several runs belong to which run; see ``joint.py``.

    Attributes:
        runs: The rows of each run, and the numbers of its dropout masks; None: it drops nothing.
    """

    runs: Sequence[tuple[slice, DropoutState | None]]


RowState = DropoutState | JointState | None  # what a projection must know about its rows; None: nothing is dropped


class DropoutMask(NamedTuple):
    """The mask of one dropout layer for one batch; ``lora_products`` draws it.

    Attributes:
        p: Probability that an element is dropped.
        state: Of the batch.
        stream: Number of the adapter in the network, so that each adapter has its own masks.
    """

    p: float
    state: DropoutState
    stream: int

    @property
    def drops(self) -> int:
        """How many of 65,536 numbers drop an element: sixteen random bits decide on one."""
        return round(self.p * 65536)

    @property
    def factor(self) -> float:
        """Of an element that is kept."""
        return 65536 / (65536 - self.drops)


class AdapterPart(NamedTuple):
    """What adapters add to the gradient of their input: the sum of ``dropout(grad A)``, not yet computed.

    Attributes:
        grad: With respect to ``A dropout(x)`` of one adapter after the other, shape ``(rows, n * r)``.
        a: Their weights, one below the other: shape ``(n * r, in_features)``.
        n: Number of adapters.
        keep: The bits of their masks; None where nothing is dropped.
        factor: Of an element that is kept.
    """

    grad: Tensor
    a: Tensor
    n: int
    keep: Tensor | None
    factor: float


class OperandFormat(NamedTuple):
    """The formats in which a matrix product needs its operand.

    Attributes:
        values: Whether it needs the values in the dtype of the weights.
        fp8: Whether it needs float8 values with a scale per row.
        extra_columns: Unused columns to allocate behind ``values``, for the output of LoRA's ``A`` and to fill rows up.
    """

    values: bool = True
    fp8: bool = False
    extra_columns: int = 0


UNQUANTIZED = OperandFormat()


class Operand(NamedTuple):
    """A tensor of shape ``(rows, cols)`` that a matrix product reads, in the formats that were requested.

    Attributes:
        values: In the dtype of the weights, or None.
        fp8: float8_e4m3fn, or None.
        scale: float32, shape ``(rows, 1)``: the factor that turns ``fp8`` into the values.
    """

    values: Tensor | None
    fp8: Tensor | None = None
    scale: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The values in the dtype of the weights, which must have been requested."""
        assert self.values is not None
        return self.values


class Stream(NamedTuple):
    """The residual stream as a sum that the next norm computes.

    Attributes:
        x: Shape ``(rows, hidden_size)``.
        addends: Up to two tensors of the same shape.
        bias: Shape ``(hidden_size,)``: biases that the addends still lack.
        post_norm: An RMS norm through which the only addend still has to go; there is no bias then.
    """

    x: Tensor
    addends: Sequence[Tensor] = ()
    bias: Tensor | None = None
    post_norm: Norm | None = None


class NormOutput(NamedTuple):
    """The result of ``kernels.norm``.

    Attributes:
        total: The sum that was normalised, in the dtype of the weights.
        normed: Its norm, in the requested formats.
        second: Its second norm, where one was asked for.
    """

    total: Tensor
    normed: Operand
    second: Operand | None = None
