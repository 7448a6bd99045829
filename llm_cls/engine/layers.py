"""The layers that ``network.py`` computes, built from a decoder's spec; and which decoders can be built so."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers import MODEL_MAPPING, PreTrainedModel

from llm_cls.engine.architectures import ARCHITECTURES
from llm_cls.engine.kernels import ACTIVATIONS, takes_rank, unusable_reason
from llm_cls.engine.lora import Adapter, Casts, base_layer, is_plain, lora_parts
from llm_cls.engine.projection import Projection
from llm_cls.engine.spec import DecoderSpec, LayerSpec
from llm_cls.engine.tensors import Norm


@dataclass(frozen=True)
class Layer:
    """One decoder layer.

    Attributes:
        spec: Its norms, attention and form.
        qkv: The projection to query, key and value.
        out: The projection after attention.
        up: The projection into the MLP.
        down: The projection out of the MLP.
        activation: The MLP's activation by its name in ``kernels.py``.
        pending_bias: The biases that the layer's output still lacks; the next norm adds them.
    """

    spec: LayerSpec
    qkv: Projection
    out: Projection
    up: Projection
    down: Projection
    activation: str
    pending_bias: Tensor | None

    @property
    def projections(self) -> list[Projection]:
        """All four, in the order of their adapters' dropout streams."""
        return [self.qkv, self.out, self.up, self.down]

    @property
    def adapters(self) -> list[Adapter]:
        """The adapters of all four projections."""
        return [x for projection in self.projections for x in projection.adapters]


@dataclass(frozen=True)
class FusedLayers:
    """A whole decoder.

    Attributes:
        embedding: Shape ``(vocab_size, hidden_size)``.
        layers: From the first to the last.
        final_norm: The norm after the last layer.
        embedding_scale: Factor of the embeddings.
    """

    embedding: Tensor
    layers: list[Layer]
    final_norm: Norm
    embedding_scale: float = 1.0

    @property
    def adapters(self) -> list[Adapter]:
        """The adapters of all layers, in the order of their dropout streams."""
        return [adapter for layer in self.layers for adapter in layer.adapters]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The adapters' master weights."""
        return [parameter for adapter in self.adapters for parameter in (adapter.a, adapter.b)]

    @cached_property
    def casts(self) -> Casts:
        """Those of all adapters."""
        return Casts(self.adapters)

    @property
    def first_trained(self) -> int:
        """The lowest layer with an adapter; the number of layers where none has one."""
        return next((i for i, layer in enumerate(self.layers) if layer.adapters), len(self.layers))


def build_layers(
    decoder: PreTrainedModel, max_seqlen: int, fp8: bool = False, frozen: FusedLayers | None = None
) -> FusedLayers:
    """The layers of a decoder, with its adapters, if it has any.

    Args:
        decoder: A network for which ``unsupported_reason`` is empty. Projections of one input share memory from now on.
        max_seqlen: Tokens per text at most.
        fp8: Whether the frozen weights are float8.
        frozen: Layers that were built from the same frozen weights, whose tensors are used; see ``joint.py``.
    """
    spec = _describe(decoder, max_seqlen)
    like = frozen.layers if frozen is not None else [None] * len(spec.layers)
    layers = [_build(layer, fp8, other) for layer, other in zip(spec.layers, like, strict=True)]
    built = FusedLayers(spec.embedding, layers, spec.final_norm, spec.embedding_scale)
    for stream, adapter in enumerate(built.adapters):
        adapter.stream = stream
    return built


def _build(spec: LayerSpec, fp8: bool, frozen: Layer | None) -> Layer:
    like = [None] * 4 if frozen is None else frozen.projections
    modules = (spec.qkv, spec.out, spec.up, spec.down)
    qkv, out, up, down = (Projection(linear, fp8, other) for linear, other in zip(modules, like, strict=True))
    missing = [down.pending_bias] if spec.mlp_post_norm is None else []
    if spec.parallel_residual and spec.attention_post_norm is None:
        missing.append(out.pending_bias)
    biases = [bias for bias in missing if bias is not None]
    pending_bias = sum(biases[1:], biases[0]) if biases else None
    return Layer(spec, qkv, out, up, down, ACTIVATIONS[spec.activation], pending_bias)


def _describe(decoder: PreTrainedModel, max_seqlen: int) -> DecoderSpec:
    return ARCHITECTURES[decoder.config.model_type].describe(decoder, max_seqlen)


def unsupported_reason(decoder: PreTrainedModel, pooling: str) -> str:
    """Why a decoder, with its adapters, cannot be computed by the fused layers; empty if it can.

    Args:
        decoder: The pretrained network, its adapters inside.
        pooling: "last" or "first".
    """
    config: Any = decoder.config
    if config.model_type not in ARCHITECTURES:
        return f"there are no fused layers for {config.model_type}"
    known: Any = MODEL_MAPPING.get(type(config), None)
    if type(decoder) is not known:  # remote code of the hub may use the name of a known family
        return f"{type(decoder).__name__} is not the implementation of {config.model_type} in transformers"
    if not getattr(config, "is_causal", True):
        return "its attention is not causal"
    if pooling != "last":
        return "the fused layers give the state of the last token only"
    if any(float(getattr(config, key, 0) or 0) for key in ("attention_dropout", "hidden_dropout")):
        return "the decoder itself has dropout"
    if reason := ARCHITECTURES[config.model_type].unsupported_reason(config):
        return reason
    return (
        _unsupported_linear(decoder)
        or _unsupported_sizes(_describe(decoder, max_seqlen=1))
        or unusable_reason(decoder.device)
        or _unsupported_rank(decoder)
    )


def _unsupported_linear(decoder: nn.Module) -> str:
    """Checks every linear or adapted module, because an adapter may also lie outside the layers."""
    layers = [m for m in decoder.modules() if isinstance(m, nn.Linear) or hasattr(m, "base_layer")]
    inner = {id(m) for layer in layers if hasattr(layer, "base_layer") for m in layer.modules() if m is not layer}
    outer = [layer for layer in layers if id(layer) not in inner]
    if other := next((layer for layer in outer if not is_plain(layer)), None):
        kind = type(base_layer(other)).__name__
        return "it has adapters other than plain LoRA" if kind == "Linear" else f"it has layers of the kind {kind}"
    if any(base_layer(layer).in_features % 4 for layer in outer):  # a dropout kernel draws for four columns at a time
        return "it has sizes that are not multiples of 4"
    return ""


def _unsupported_rank(decoder: PreTrainedModel) -> str:
    ranks = {part.a.shape[0] for module in decoder.modules() if (part := lora_parts(module)) is not None}
    large = [rank for rank in ranks if not takes_rank(rank, decoder.dtype, decoder.device)]
    return f"this GPU has too little shared memory for adapters of rank {max(large)}" if large else ""


def _unsupported_sizes(spec: DecoderSpec) -> str:
    for layer in spec.layers:
        if layer.activation not in ACTIVATIONS:
            return f"its activation is {layer.activation}"
        if (size := layer.attention.head_size) % 8 or size > 256:  # the variable-length kernels lack these
            return f"its attention heads have the size {size}"
    return ""
