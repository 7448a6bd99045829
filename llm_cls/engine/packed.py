"""The fast engine for decoders that have no fused layers: texts lie one after the other, without padding or mask.

What is exact and what it saves:

- No padding. Only attention relates tokens to one another, so the texts of a batch can be one long sequence; the
  padding (a quarter of the tokens of livedoor at 512) is not computed. Attention gets the boundaries of the texts:
  variable-length flash attention on a GPU in half precision, elsewhere one call of PyTorch's own attention per run of
  texts of equal length. There is no mask tensor.
- LoRA without casts. PEFT casts the input of every adapted layer to the adapter's float32; here the small adapter is
  cast to the dtype of the input instead, and ``B`` is applied in the same matrix product that adds it to the layer's
  output. The master weights stay float32.
- Half precision throughout: frozen weights and activations have one dtype, so autocast has nothing to do.
- Compiled layers: one compilation serves all layers of a model, with a dynamic number of tokens.

``pack`` compares the packed network with one pass per text on a few tokens, and leaves the network as it was where they
differ or the architecture lacks what is needed.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llm_cls.engine.attention import has_varlen_kernel
from llm_cls.engine.interface import SCORING_TOKENS
from llm_cls.engine.kernels import unusable_reason
from llm_cls.engine.length_groups import grouped
from llm_cls.engine.lora import is_plain, lora_parts
from llm_cls.engine.packed_attention import PACKED_ATTENTION, packed_attention
from llm_cls.engine.packing import PackedLayout
from llm_cls.engine.probe import Probe

log = logging.getLogger(__name__)


class PackedDecoder:
    """Runs the layers of ``transformers`` on packed batches; an ``Encoder``.

    Attributes:
        layers: "packed".
        max_tokens: None: memory use is not known.
        max_eval_tokens: ``SCORING_TOKENS``.
    """

    layers = "packed"
    max_tokens = None
    max_eval_tokens = SCORING_TOKENS

    def __init__(self, network: nn.Module, decoder: PreTrainedModel, max_seqlen: int, autocast: bool) -> None:
        """Replaces the attention of ``decoder``; see ``pack`` for the arguments."""
        self._network, self._decoder, self._max_seqlen, self._autocast = network, decoder, max_seqlen, autocast
        self._attention = str(decoder.config._attn_implementation)
        ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention)
        decoder.set_attn_implementation(PACKED_ATTENTION)

    def __call__(self, input_ids: Tensor, seq_lens: Sequence[int], first_token: int, training: bool) -> Tensor:
        """See ``Encoder``."""
        device = input_ids.device
        with nullcontext() if self._autocast else torch.autocast(device.type, enabled=False):
            is_autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if is_autocast else next(self._network.parameters()).dtype
            layout = PackedLayout.of(seq_lens, self._max_seqlen, device)
            boundaries: dict[str, Any] = {"seq_lens": layout.seq_lens}
            if has_varlen_kernel(device, dtype):  # the upper bound is constant, so that nothing is recompiled for it
                boundaries = {"cu_seqlens": layout.cu_seqlens, "max_seqlen": layout.max_seqlen}
            output = self._network(
                input_ids=input_ids[None], position_ids=layout.position_ids[None], use_cache=False, **boundaries
            )
            last: Tensor = output.last_hidden_state[0, layout.last_tokens]
        return last

    def release(self) -> None:
        """See ``Encoder``; what was compiled stays in torch's cache."""
        self._decoder.set_attn_implementation(self._attention)
        for module in self._decoder.modules():
            module._compiled_call_impl = None


class PackedLoraLinear(PeftLinear):
    """PEFT's LoRA layer with the same parameters and another forward pass: the adapter is cast to the input's dtype.

    The result is ``W x + b + s B A dropout(x)`` as in PEFT (Hu et al., 2021).
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Shape ``(..., in_features)`` to ``(..., out_features)``."""
        base: Any = self.base_layer
        lora = lora_parts(self)
        assert lora is not None
        result = F.linear(x, base.weight, base.bias)
        down = F.linear(lora.dropout(x), lora.a.to(x.dtype)) * lora.scaling
        flat = torch.addmm(result.flatten(0, -2), down.flatten(0, -2), lora.b.to(x.dtype).t())
        return flat.view_as(result)


def pack(
    network: nn.Module, decoder: PreTrainedModel, probe: Probe, max_seqlen: int, autocast: bool, compiled: bool
) -> PackedDecoder | str:
    """Prepares a network for packed batches, if they produce the same hidden states.

    Args:
        network: The decoder, with or without an adapter around it.
        decoder: The decoder itself.
        probe: Texts with the states that ``network`` gives for them.
        max_seqlen: Tokens per text at most.
        autocast: Whether the caller's autocast applies: where the whole network is trained, its weights are float32.
        compiled: Whether the decoder's layers are compiled.

    Returns:
        The packed network; or the reason why it cannot be packed, with the network as it was.
    """
    if reason := _unsupported_reason(decoder):
        return reason
    packed = PackedDecoder(network, decoder, max_seqlen, autocast=True)
    if reason := probe.disagreement(grouped(packed, decoder.config, max_seqlen)):
        packed.release()
        return f"in a packed batch {reason}"
    packed._autocast = autocast
    _replace_lora_layers(network)
    if compiled and (reason := unusable_reason(decoder.device)):
        log.info("The layers are not compiled: %s", reason)
    elif compiled:
        names = set(decoder._no_split_modules or ())
        for module in decoder.modules():
            if type(module).__name__ in names:
                module.compile(dynamic=True)
    return packed


def _replace_lora_layers(network: nn.Module) -> None:
    lora = [layer for layer in network.modules() if isinstance(layer, PeftLinear)]
    plain = [layer for layer in lora if is_plain(layer)]
    for layer in plain:
        layer.__class__ = PackedLoraLinear
    if len(plain) < len(lora):
        log.warning("%d of %d adapted layers keep PEFT's own arithmetic", len(lora) - len(plain), len(lora))


def _unsupported_reason(decoder: PreTrainedModel) -> str:
    """Why this architecture cannot be packed; empty if no reason is known."""
    config: Any = decoder.config
    if not getattr(decoder, "_supports_attention_backend", False):
        return f"{config.model_type} does not accept an attention function"
    if not all(getattr(part, "is_causal", True) for part in (config, *decoder.modules())):
        return f"the attention of {config.model_type} is not causal"
    if any(isinstance(module, _ConvNd) for module in decoder.modules()):
        return f"{config.model_type} has convolutions, which would reach from one text into the next"
    if getattr(config, "sliding_window", None) or getattr(config, "layer_types", None) not in (None, []):
        layer_types = set(getattr(config, "layer_types", None) or ["sliding_attention"])
        if other := layer_types - {"full_attention", "sliding_attention"}:
            return f"{config.model_type} has layers of the kind {min(other)}"
        if "sliding_attention" in layer_types:
            return f"{config.model_type} attends to a sliding window"
    dropout = max(float(getattr(config, key, 0.0) or 0.0) for key in ("attention_dropout", "attn_pdrop"))
    if dropout and has_varlen_kernel(decoder.device, torch.bfloat16):
        return f"{config.model_type} drops attention probabilities ({dropout})"
    return ""
