"""What the parts of the fused layers hand to one another."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

FP8_MAX = 448.0  # of float8_e4m3fn


@dataclass(frozen=True)
class Norm:
    """A layer norm, or with ``rms`` a root-mean-square norm; frozen.

    Attributes:
        weight: Shape ``(hidden_size,)``.
        bias: The same, or None.
        eps: Added to the variance.
        rms: Whether the mean is left in.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool

    @classmethod
    def of(cls, module: nn.Module) -> "Norm":
        """What a norm layer of ``transformers`` computes."""
        layer: Any = module
        if isinstance(layer, nn.LayerNorm):
            return cls(layer.weight.detach(), layer.bias.detach(), layer.eps, rms=False)
        return cls(layer.weight.detach(), None, layer.variance_epsilon, rms=True)


class Draw(NamedTuple):
    """From what a batch draws its masks.

    Attributes:
        rng: int64 ``[seed, first_token]`` on the device: of the step, and where in it the batch begins.
        tokens: int64: which token of the batch each row is; None: one row per token, in order.
    """

    rng: Tensor
    tokens: Tensor | None = None


class Mask(NamedTuple):
    """Which elements dropout keeps.

    Attributes:
        p: Probability of dropping.
        draw: Of the batch.
        stream: Number of the adapter in the network.
    """

    p: float
    draw: Draw
    stream: int


class Form(NamedTuple):
    """In which forms a matrix product takes its input.

    Attributes:
        plain: In the type of the weights.
        fp8: In float8, with a scale per row.
        spare: Free columns behind the plain ones, for what the adapters make of them.
    """

    plain: bool = True
    fp8: bool = False
    spare: int = 0


PLAIN = Form()


class Rows(NamedTuple):
    """A tensor of shape ``(rows, cols)`` in the forms that are asked for.

    Attributes:
        plain: In the type of the weights, or None.
        fp8: float8_e4m3fn, or None.
        scale: float32, shape ``(rows, 1)``: by what ``fp8`` is multiplied.
    """

    plain: Tensor | None
    fp8: Tensor | None = None
    scale: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The plain form, which was asked for."""
        assert self.plain is not None
        return self.plain

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.plain if self.plain is not None else self.scale)  # type: ignore[arg-type]


class Normed(NamedTuple):
    """What ``norm`` gives: the sum, its norm, and numbers per row for ``norm_backward``."""

    total: Tensor
    rows: Rows
    stats: Tensor | None
