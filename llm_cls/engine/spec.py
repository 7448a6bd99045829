"""What the decoder layers of the known architectures consist of: GPT-NeoX, Llama and its relatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PreTrainedModel

from llm_cls.engine.kernels import ACTIVATIONS
from llm_cls.engine.projection import Adapter, Projection, is_plain
from llm_cls.engine.tensors import Norm

_STATIC_ROPE = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Block:
    """One decoder layer.

    Attributes:
        norm1, norm2: Before attention and before the MLP.
        qkv, out, up, down: Its four matrix products; ``up`` of a gated MLP is gate and value.
        heads, kv_heads, head_size: Of the attention.
        by_head: Whether ``qkv`` gives query, key and value head by head (GPT-NeoX), or one after the other.
        scaling: Of the attention scores.
        activation, gated: Of the MLP.
        parallel: Whether the MLP takes the layer's input instead of what attention added to.
        output_offset: Biases that the layer's output still lacks.
    """

    norm1: Norm
    norm2: Norm
    qkv: Projection
    out: Projection
    up: Projection
    down: Projection
    heads: int
    kv_heads: int
    head_size: int
    by_head: bool
    scaling: float
    activation: str
    gated: bool
    parallel: bool
    output_offset: Tensor | None

    @property
    def adapters(self) -> list[Adapter]:
        """Of all four products."""
        return [x for projection in (self.qkv, self.out, self.up, self.down) for x in projection.adapters]

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value as views of shape ``(tokens, heads, head_size)`` of what ``qkv`` gives."""
        if self.by_head:
            return qkv.view(len(qkv), self.heads, 3, self.head_size).unbind(2)
        parts: tuple[Tensor, ...] = qkv.view(len(qkv), -1, self.head_size).split(
            [self.heads, self.kv_heads, self.kv_heads], 1
        )
        return parts


@dataclass(frozen=True)
class Blocks:
    """A whole decoder.

    Attributes:
        embedding: Shape ``(vocab_size, hidden_size)``.
        layers: Its layers.
        norm: After the last of them.
        cos, sin: Of the rotary embedding, float32, shape ``(max_length, rotary_size / 2)``.
    """

    embedding: Tensor
    layers: list[Block]
    norm: Norm
    cos: Tensor
    sin: Tensor


def obstacle(decoder: PreTrainedModel, pooling: str) -> str:
    """Why this decoder has no description here; empty if it has one."""
    config: Any = decoder.config
    if config.model_type not in _PRODUCTS:
        return f"no fused layers for {config.model_type}"
    known: Any = MODEL_MAPPING.get(type(config), None)
    if type(decoder) is not known:
        return f"{type(decoder).__name__} is code of its own"  # of the hub, under a known name
    if not getattr(config, "is_causal", True):
        return "attends to what comes later"
    if pooling != "last":
        return "the fused layers take the last token"
    if any(float(getattr(config, key, 0) or 0) for key in ("attention_dropout", "hidden_dropout")):
        return "the decoder itself has dropout"
    if getattr(config, "hidden_act", None) not in ACTIVATIONS:
        return f"unknown activation {config.hidden_act}"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if kinds != {"full_attention"} or (windowed and config.model_type != "gpt_neox"):
        return "attends to a window"
    if (rope := (config.rope_parameters or {}).get("rope_type", "default")) not in _STATIC_ROPE:
        return f"rotary embedding of type {rope}"
    layers = [m for m in decoder.modules() if isinstance(m, nn.Linear) or hasattr(m, "base_layer")]
    inner = {id(m) for layer in layers if hasattr(layer, "base_layer") for m in layer.modules() if m is not layer}
    outer = [layer for layer in layers if id(layer) not in inner]
    if other := next((layer for layer in outer if not is_plain(layer)), None):
        kind = type(getattr(other, "base_layer", other)).__name__
        return "adapters other than plain LoRA" if kind == "Linear" else f"layers of the kind {kind}"
    bases: list[Any] = [getattr(layer, "base_layer", layer) for layer in outer]
    if any(base.in_features % 4 for base in bases):
        return "sizes that are not multiples of 4"  # dropout draws for four columns at a time
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size % 8 or size > 256:
        return f"attention heads of size {size}"  # which the variable-length kernels lack
    return ""


def describe(decoder: PreTrainedModel, max_length: int, fp8: bool = False) -> Blocks:
    """The description of a decoder to which ``obstacle`` finds none, with its adapters, if it has any."""
    network: Any = decoder
    embedding = network.embed_in if decoder.config.model_type == "gpt_neox" else network.embed_tokens
    final = network.final_layer_norm if decoder.config.model_type == "gpt_neox" else network.norm
    streams = 0
    layers = []
    for layer in network.layers:
        layers.append(_block(layer, decoder.config, _PRODUCTS[decoder.config.model_type](layer), streams, fp8))
        streams += len(layers[-1].adapters)
    device = embedding.weight.device
    positions = torch.arange(max_length, device=device)[None]
    cos, sin = network.rotary_emb(torch.empty(1, device=device, dtype=torch.float32), positions)
    half = cos.shape[-1] // 2
    cos, sin = (table[0, :, :half].float().contiguous() for table in (cos, sin))
    return Blocks(embedding.weight.detach(), layers, Norm.of(final), cos, sin)


def _block(layer: Any, config: Any, groups: Sequence[Sequence[nn.Module]], stream: int, fp8: bool) -> Block:
    products = []
    for group, follows_norm in zip(groups, (True, False, True, False), strict=True):
        products.append(Projection(group, stream, fp8, follows_norm))
        stream += len(products[-1].adapters)
    qkv, out, up, down = products
    neox = config.model_type == "gpt_neox"
    attention = layer.attention if neox else layer.self_attn
    parallel = neox and config.use_parallel_residual
    missing = [down.offset, out.offset] if parallel else [down.offset]
    offsets = [offset for offset in missing if offset is not None]
    return Block(
        norm1=Norm.of(layer.input_layernorm),
        norm2=Norm.of(layer.post_attention_layernorm),
        qkv=qkv,
        out=out,
        up=up,
        down=down,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads if neox else config.num_key_value_heads,
        head_size=attention.head_size if neox else attention.head_dim,
        by_head=neox,
        scaling=attention.scaling,
        activation=ACTIVATIONS[config.hidden_act],
        gated=not neox,
        parallel=parallel,
        output_offset=sum(offsets[1:], offsets[0]) if offsets else None,
    )


def _gpt_neox(layer: Any) -> list[list[nn.Module]]:
    attention, mlp = layer.attention, layer.mlp
    return [[attention.query_key_value], [attention.dense], [mlp.dense_h_to_4h], [mlp.dense_4h_to_h]]


def _llama(layer: Any) -> list[list[nn.Module]]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    ]


_PRODUCTS = {"gpt_neox": _gpt_neox, "llama": _llama, "mistral": _llama, "qwen2": _llama}
