"""What a family's module must define, and what several families share."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PretrainedConfig

from llm_cls.engine.spec import DecoderSpec, RotaryTable
from llm_cls.engine.tensors import Norm

_STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # others change the angles with the length of the text


class Architecture(Protocol):
    """A module of ``architectures/``: the only place that knows the names of a family's parts."""

    def unsupported_reason(self, config: PretrainedConfig) -> str:
        """Why a network of this family and configuration has no spec; empty if it has one."""

    def describe(self, decoder: nn.Module, max_seqlen: int) -> DecoderSpec:
        """The spec of a network, with rotary tables for texts of at most ``max_seqlen`` tokens."""


def layer_norm(module: nn.Module) -> Norm:
    """The parameters of an ``nn.LayerNorm``."""
    layer: Any = module
    return Norm(layer.weight.detach(), layer.bias.detach(), layer.eps, rms=False)


def rms_norm(module: nn.Module) -> Norm:
    """The parameters of a root-mean-square norm whose weight is the factor."""
    layer: Any = module
    return Norm(layer.weight.detach(), None, layer.variance_epsilon, rms=True)


def unsupported_rotary(rope_parameters: Mapping[str, Any] | None) -> str:
    """Why a rotary embedding with these parameters has no fixed table; empty if it has one."""
    rope_type = (rope_parameters or {}).get("rope_type", "default")
    return "" if rope_type in _STATIC_ROPE else f"its rotary embedding has the type {rope_type}"


def rotary_table(rotary: Callable[..., Any], max_seqlen: int, device: torch.device) -> RotaryTable:
    """The angles that a rotary module of ``transformers`` gives for the positions from 0 to ``max_seqlen - 1``."""
    position_ids = torch.arange(max_seqlen, device=device)[None]
    cos, sin = rotary(torch.empty(1, device=device, dtype=torch.float32), position_ids)
    half = cos.shape[-1] // 2  # the second half repeats the first
    cos, sin = (table[0, :, :half].float().contiguous() for table in (cos, sin))
    return RotaryTable(cos, sin)


def text_rotary(rotary: Callable[..., Any]) -> Callable[..., Any]:
    """The rotary module of a model with images, whose tokens have three positions each, for tokens of text alone.

    A token of a text has one position, three times. So its angles are the usual ones.
    """
    return lambda x, position_ids: rotary(x, position_ids.expand(3, *position_ids.shape))


def reachable_window(window: int | None, max_seqlen: int) -> int | None:
    """The window of a layer; None where no text of at most ``max_seqlen`` tokens is longer than it."""
    return window if window is not None and window < max_seqlen else None
