"""Several runs over one frozen decoder in one pass: the frozen products are computed once over the tokens of all.

The texts lie one run after the other in one packed batch. Norms, attention and frozen products do not depend on whose
text a row belongs to; only LoRA does: the adapters of a run see its own rows, with its own dropout. So the layers are
those of ``layer_pass.py`` with another projection, whatever the family. A run gets what it gets alone, up to the
rounding of products of more rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llm_cls.engine import network
from llm_cls.engine.layer_pass import PackedInputs
from llm_cls.engine.layers import FusedLayers, Layer
from llm_cls.engine.lora import AdapterGradients
from llm_cls.engine.lora_products import SavedDown
from llm_cls.engine.network import SavedForward
from llm_cls.engine.packing import PackedLayout, to_device
from llm_cls.engine.projection import Projection, SavedAdapters
from llm_cls.engine.tensors import DropoutState, JointState, RowState


@dataclass(frozen=True)
class Share:
    """The part of one run in a joint batch.

    Attributes:
        input_ids: int64, shape ``(sum(seq_lens),)``.
        seq_lens: Tokens of each text.
        rng: Seed of its step, and the tokens of the step before this batch; None: no dropout.
    """

    input_ids: Tensor
    seq_lens: Sequence[int]
    rng: tuple[int, int] | None


@dataclass(frozen=True)
class JointInputs(PackedInputs):
    """A packed batch of several runs.

    Attributes:
        all_rows: The rows of each run where a row is a token.
        last_rows: The same where a row is a text's last token.
    """

    all_rows: JointState
    last_rows: JointState

    @classmethod
    def of(cls, shares: Sequence[Share], max_seqlen: int) -> "JointInputs":
        """The batch of these shares, each of which has at least one text."""
        device = shares[0].input_ids.device
        layout = PackedLayout.of([n for share in shares for n in share.seq_lens], max_seqlen, device)
        all_rows: list[tuple[slice, DropoutState | None]] = []
        last_rows: list[tuple[slice, DropoutState | None]] = []
        token = text = 0
        for share in shares:
            tokens = slice(token, token + len(share.input_ids))
            texts = slice(text, text + len(share.seq_lens))
            state = last_state = None
            if share.rng is not None:
                rng = to_device(torch.tensor(share.rng), device)
                state, last_state = DropoutState(rng), DropoutState(rng, layout.last_tokens[texts] - token)
            all_rows.append((tokens, state))
            last_rows.append((texts, last_state))
            token, text = tokens.stop, texts.stop
        input_ids = torch.cat([share.input_ids for share in shares])
        return cls(input_ids, layout, None, JointState(all_rows), JointState(last_rows))

    def dropout_states(self, only_last: bool) -> tuple[RowState, RowState]:
        """See ``PackedInputs``."""
        return self.all_rows, self.last_rows if only_last else self.all_rows


class JointProjection(Projection):
    """One frozen product for all rows, and the adapters of each run for its own."""

    def __init__(self, parts: Sequence[Projection]) -> None:
        """Takes the same projection of each run; their frozen tensors are the same."""
        first = parts[0]
        self._parts, self._extra_columns, self._fp8 = parts, 0, first._fp8
        self.weight, self.bias = first.weight, first.bias
        self.adapters = [adapter for part in parts for adapter in part.adapters]

    @property
    def saved_elements(self) -> int:
        """See ``Projection``: a token passes the adapters of one run."""
        return max(part.saved_elements for part in self._parts)

    def add_adapters(self, y: Tensor, x: Tensor | None, dropout_state: RowState) -> SavedAdapters:
        """See ``Projection``."""
        if not self.adapters:
            return None
        assert x is not None and isinstance(dropout_state, JointState)
        saved: list[SavedDown | None] = []
        for part, (rows, state) in zip(self._parts, dropout_state.runs, strict=True):
            own = part.add_adapters(y[rows], x[rows], state)
            assert not isinstance(own, list)
            saved.append(own)
        return saved

    def adapter_gradients(
        self,
        grad: Tensor,
        saved: SavedAdapters,
        dropout_state: RowState,
        gradients: AdapterGradients,
        total: Tensor | None,
        down_grad: Tensor | None = None,
    ) -> None:
        """See ``Projection``."""
        assert isinstance(saved, list) and isinstance(dropout_state, JointState)
        for part, own, (rows, state) in zip(self._parts, saved, dropout_state.runs, strict=True):
            if part.adapters:
                part.adapter_gradients(grad[rows], own, state, gradients, None if total is None else total[rows])


def joint_layers(networks: Sequence[FusedLayers]) -> FusedLayers:
    """The layers of several runs as one network; each was built with the same ``frozen`` layers."""
    first = networks[0]
    return replace(first, layers=[_joint(same) for same in zip(*(n.layers for n in networks), strict=True)])


def _joint(layers: Sequence[Layer]) -> Layer:
    qkv, out, up, down = map(JointProjection, zip(*(layer.projections for layer in layers), strict=True))
    return replace(layers[0], qkv=qkv, out=out, up=up, down=down)


class JointPass:
    """One forward pass of several runs, and its backward pass.

    Attributes:
        pooled: Per run the state of each text's last token, shape ``(n, hidden_size)``.
    """

    def __init__(
        self,
        joint: FusedLayers,
        networks: Sequence[FusedLayers],
        shares: Sequence[Share],
        max_seqlen: int,
        save: bool,
        recompute_layers: int = 0,
    ) -> None:
        """Computes it.

        Args:
            joint: ``joint_layers(networks)``.
            networks: The layers of each run.
            shares: The texts of each run.
            max_seqlen: Tokens per text at most.
            save: Whether ``backward`` will be called.
            recompute_layers: How many layers save only their input.
        """
        self._joint, self._networks = joint, networks
        self._inputs = JointInputs.of(shares, max_seqlen)
        pooled, self._saved = network.forward(joint, self._inputs, save, recompute_layers)
        self.pooled: Sequence[Tensor] = pooled.split([len(share.seq_lens) for share in shares])

    def backward(self, grads: Sequence[Tensor]) -> list[list[Tensor]]:
        """Per run the gradients of ``FusedLayers.parameters``, from those with respect to ``pooled``."""
        saved, self._saved = self._saved, None
        assert isinstance(saved, SavedForward)
        gradients = AdapterGradients(self._joint.adapters)
        network.backward(self._joint, self._inputs, saved, torch.cat(list(grads)), gradients)
        return [gradients.of(run.parameters) for run in self._networks]
