"""What the engine must know about a decoder, whatever its family: plain data, filled in by ``architectures/``.

A spec refers to the modules of the pretrained network and changes none of them. ``layers.py`` builds from it what
``network.py`` computes with. ``HeadInputs`` adds what a batch saved, for the kernels that take both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from llm_cls.engine.tensors import Norm


@dataclass(frozen=True)
class Scores:
    """How a query weighs the keys before it.

    Attributes:
        scaling: Factor of the scores.
        window: Tokens that a token attends to at most, itself included; None: all before it.
        softcap: ``c`` of ``c * tanh(score / c)``; None: scores have no bound.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class AttentionSpec:
    """The attention of a layer.

    Attributes:
        heads: Query heads.
        kv_heads: Key and value heads; divides ``heads``.
        head_size: Elements of a head.
        interleaved: Whether query, key and value alternate head by head in the projection's output.
        scores: How a query weighs the keys.
        query_norm: The norm of each query before it is rotated, with a weight of shape ``(head_size,)``; or None.
        key_norm: Likewise of each key; there are both or none.
    """

    heads: int
    kv_heads: int
    head_size: int
    interleaved: bool
    scores: Scores
    query_norm: Norm | None = None
    key_norm: Norm | None = None

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value as views of shape ``(tokens, heads, head_size)`` of the projection's output."""
        if self.interleaved:
            return qkv.view(len(qkv), self.heads, 3, self.head_size).unbind(2)
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        parts: tuple[Tensor, ...] = qkv.view(len(qkv), -1, self.head_size).split(sizes, 1)
        return parts


@dataclass(frozen=True)
class RotaryTable:
    """The angles of a rotary position embedding (Su et al., 2021) in the convention that pairs the halves of a head.

    Attributes:
        cos: float32, shape ``(max_seqlen, rotary_size / 2)``.
        sin: The same shape and dtype.
    """

    cos: Tensor
    sin: Tensor


class SavedHeads(NamedTuple):
    """Query and key before their norms: views of the projection's output."""

    q: Tensor
    k: Tensor


class HeadInputs(NamedTuple):
    """What lies between the projection and attention, for the backward pass.

    Attributes:
        spec: Of the attention, with the norms.
        rotary: The angles.
        saved: What ``rotate_heads`` saved; None: there are no norms.
    """

    spec: AttentionSpec
    rotary: RotaryTable
    saved: SavedHeads | None


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer.

    Attributes:
        attention_norm: The norm before attention.
        mlp_norm: The norm before the MLP.
        qkv: The linear layers of query, key and value, or the one layer of all three.
        out: The linear layer after attention.
        up: The linear layers into the MLP; with ``gated`` gate first, then value.
        down: The linear layer out of the MLP.
        attention: Its attention.
        rotary: Its rotary table; layers may share one.
        activation: The MLP's activation by its name in ``transformers``.
        gated: Whether the activated gate multiplies the value.
        parallel_residual: Whether the MLP reads the layer's input instead of the sum after attention.
        attention_post_norm: The norm of what attention adds to the residual stream; or None.
        mlp_post_norm: Likewise of the MLP.
    """

    attention_norm: Norm
    mlp_norm: Norm
    qkv: Sequence[nn.Module]
    out: Sequence[nn.Module]
    up: Sequence[nn.Module]
    down: Sequence[nn.Module]
    attention: AttentionSpec
    rotary: RotaryTable
    activation: str
    gated: bool
    parallel_residual: bool
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None


@dataclass(frozen=True)
class DecoderSpec:
    """A whole decoder.

    Attributes:
        embedding: Shape ``(vocab_size, hidden_size)``.
        layers: From the first to the last.
        final_norm: The norm after the last layer.
        embedding_scale: Factor of the embeddings, rounded to their dtype; 1: none.
    """

    embedding: Tensor
    layers: list[LayerSpec]
    final_norm: Norm
    embedding_scale: float = 1.0
