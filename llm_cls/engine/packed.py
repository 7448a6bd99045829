"""The fast engine where ``fused`` has no layers: texts lie one after the other, without padding and without a mask.

What is exact and what it saves:

- Padding-free. Every layer but attention treats each token alone, so the texts of a batch can be one long
  sequence; the share of padding (a quarter of the tokens of livedoor at 512) isn't computed. Attention gets
  the texts' boundaries: variable-length flash attention on a GPU in half precision, one call of PyTorch's
  own attention per run of texts of equal length elsewhere. No mask tensor is ever made.
- LoRA without casts. PEFT casts the input of every adapted layer to the adapter's float32; here the small
  adapter is cast to the input's type instead, and ``B`` is applied in the same matrix product that adds it to
  the layer's output. The master weights stay float32.
- Half precision throughout: frozen weights and activations have one type, so autocast has nothing to do.
- Compiled layers: one compilation serves all layers of a model, with a dynamic number of tokens.

``make_fast`` compares the packed network with the padded one on a few tokens before it is used, and leaves
the padded one in place where they differ or the architecture lacks what is needed.
"""

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llm_cls.engine.attention import has_varlen, per_text, places
from llm_cls.engine.projection import is_plain
from llm_cls.errors import first_line
from llm_cls.model.pooling import pad, pool

log = logging.getLogger(__name__)

ATTENTION = "llm_cls_packed"
_OTHER_SCORES = ("softcap", "s_aux", "sliding_window", "position_bias")  # as transformers' own functions name them


def packed_states(decoder: nn.Module, input_ids: Tensor, lengths: Sequence[int], max_length: int) -> Tensor:
    """The last hidden state of each text of a packed batch.

    Args:
        decoder: A network that ``make_fast`` has prepared.
        input_ids: Shape ``(sum(lengths),)``.
        lengths: Tokens of each text.
        max_length: Upper bound of ``lengths``; constant over a run, so that nothing is compiled anew for it.

    Returns:
        Shape ``(n, hidden_size)``.
    """
    device = input_ids.device
    positions, ends = places(lengths)
    boundaries: dict[str, Any] = {"packed_lengths": tuple(lengths)}
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else next(decoder.parameters()).dtype
    if _has_flash(device, dtype):
        boundaries = {"packed_ends": ends.to(device, torch.int32, non_blocking=True), "packed_max": max_length}
    hidden = decoder(
        input_ids=input_ids[None],
        position_ids=positions.to(device, non_blocking=True)[None],
        use_cache=False,
        **boundaries,
    ).last_hidden_state
    last: Tensor = hidden[0, (ends[1:] - 1).to(device, non_blocking=True)]
    return last


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_ends: Tensor | None = None,
    packed_max: int = 0,
    packed_lengths: Sequence[int] = (),
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each text of a packed batch; registered with ``transformers``.

    Args:
        module: The attention layer.
        query: Shape ``(1, heads, total_tokens, head_size)``; ``key`` and ``value`` may have fewer heads.
        key: See ``query``.
        value: See ``query``.
        attention_mask: None: boundaries say it all.
        scaling: Of the scores; None is ``head_size ** -0.5``.
        dropout: Of the probabilities; not with ``packed_ends``.
        packed_ends: int32 of shape ``(n + 1,)``, where each text begins and the last one ends.
        packed_max: With ``packed_ends``, an upper bound of the lengths.
        packed_lengths: The lengths, where there is no variable-length kernel.
        **kwargs: Whatever else an architecture passes.

    Returns:
        ``(output, None)`` with an output of shape ``(1, total_tokens, heads, head_size)``.

    Raises:
        ValueError: The architecture asks for other scores than those.
    """
    if asked := [name for name in _OTHER_SCORES if kwargs.get(name) is not None]:
        raise ValueError(f"attention with {asked[0]}")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if packed_ends is None:
        return per_text(q, k, v, packed_lengths, scaling, dropout=dropout)[None], None
    q, k = q.to(v.dtype), k.to(v.dtype)
    return _flash(q, k, v, packed_ends, packed_max, scaling, key.shape[1] != query.shape[1])[None], None


def _flash(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, scaling: float | None, grouped: bool) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if grouped and not _VARLEN_TAKES_GROUPS:
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    options: dict[str, Any] = {"enable_gqa": grouped} if _VARLEN_TAKES_GROUPS else {}
    options |= {"window_size": (-1, 0)} if _VARLEN_TAKES_WINDOW else {"is_causal": True}
    output: Any = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, **options)
    result: Tensor = output
    return result


def _varlen_parameters() -> frozenset[str]:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


_VARLEN = _varlen_parameters()  # the signature still changes from release to release
_VARLEN_TAKES_GROUPS = "enable_gqa" in _VARLEN
_VARLEN_TAKES_WINDOW = "window_size" in _VARLEN


def _has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    return bool(_VARLEN) and has_varlen(device, dtype)


class LeanLoraLinear(PeftLinear):
    """PEFT's LoRA layer with the same parameters and another forward pass: the adapter takes the input's type.

    The result is ``W x + b + s B A dropout(x)`` as in PEFT (Hu et al., 2021).
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Shape ``(..., in_features)`` to ``(..., out_features)``."""
        (name,) = self.active_adapters
        base: Any = self.base_layer
        lora_a: Any = self.lora_A[name]
        lora_b: Any = self.lora_B[name]
        result = F.linear(x, base.weight, base.bias)
        dropped = self.lora_dropout[name](x)
        small = F.linear(dropped, lora_a.weight.to(x.dtype)) * self.scaling[name]
        flat = torch.addmm(result.flatten(0, -2), small.flatten(0, -2), lora_b.weight.to(x.dtype).t())
        return flat.view_as(result)


def make_fast(network: nn.Module, decoder: PreTrainedModel, compiled: bool) -> bool:
    """Prepares a network for ``packed_states``, if that gives what padding gives.

    Args:
        network: The decoder, with or without an adapter around it.
        decoder: The decoder itself.
        compiled: Whether its layers are compiled.

    Returns:
        False, with the reason in the log and the network as it was, where it can't be packed.
    """
    if reason := _obstacle(decoder):
        log.warning("The texts are not packed: %s; batches are padded instead", reason)
        return False
    before = decoder.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
    try:
        padded = _probe_padded(network)
        decoder.set_attn_implementation(ATTENTION)
        packed = _probe_packed(network)
        error = ((packed - padded).norm() / padded.norm()).item()
        reason = "" if error < _tolerance(decoder.dtype) else f"packing changes the hidden states by {error:.1e}"
    except (TypeError, ValueError, RuntimeError, IndexError) as failure:
        if isinstance(failure, torch.OutOfMemoryError):
            raise
        reason = f"{type(failure).__name__} of the packed network: {first_line(failure)}"
    if reason:
        decoder.set_attn_implementation(before)
        log.warning("The texts are not packed: %s; batches are padded instead", reason)
        return False
    lora = [layer for layer in network.modules() if isinstance(layer, PeftLinear)]
    plain = [layer for layer in lora if is_plain(layer)]
    for layer in plain:
        layer.__class__ = LeanLoraLinear
    if len(plain) < len(lora):
        log.warning("%d of %d adapted layers keep PEFT's own arithmetic", len(lora) - len(plain), len(lora))
    if compiled:
        names = set(decoder._no_split_modules or ())
        for block in decoder.modules():
            if type(block).__name__ in names:
                block.compile(dynamic=True)
    return True


def undo_fast(decoder: PreTrainedModel, attention: str) -> None:
    """Takes back what ``make_fast`` did to the decoder itself; what it compiled stays in torch's cache.

    Args:
        decoder: What ``make_fast`` was given.
        attention: The name of its attention before that.
    """
    if decoder.config._attn_implementation == ATTENTION:
        decoder.set_attn_implementation(attention)
    for block in decoder.modules():
        block._compiled_call_impl = None


def _obstacle(decoder: PreTrainedModel) -> str:
    """Why this architecture can't be packed; empty if nothing is known to stand against it."""
    config: Any = decoder.config
    if not getattr(decoder, "_supports_attention_backend", False):
        return f"{config.model_type} takes no attention function from outside"
    if not getattr(config, "is_causal", True):
        return f"{config.model_type} attends to what comes later"
    if getattr(config, "sliding_window", None) or getattr(config, "layer_types", None) not in (None, []):
        kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
        if kinds != {"full_attention"}:
            return f"{config.model_type} attends to a window"
    dropout = max(float(getattr(config, key, 0.0) or 0.0) for key in ("attention_dropout", "attn_pdrop"))
    if dropout and _has_flash(decoder.device, torch.bfloat16):
        return f"{config.model_type} drops attention probabilities ({dropout})"
    return ""


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-4 if dtype == torch.float32 else 5e-2


_PROBE = (9, 1, 5)


def _probe_ids(network: nn.Module) -> Tensor:
    device = next(network.parameters()).device
    return torch.arange(sum(_PROBE), device=device) % 7 + 4


@torch.no_grad()
def _probe_padded(network: nn.Module) -> Tensor:
    ids, mask = pad(_probe_ids(network), _PROBE)
    return pool(network(input_ids=ids, attention_mask=mask).last_hidden_state, _PROBE, "last").float()


@torch.no_grad()
def _probe_packed(network: nn.Module) -> Tensor:
    return packed_states(network, _probe_ids(network), _PROBE, max(_PROBE)).float()
