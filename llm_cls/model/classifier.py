"""The classifier: decoder with adapter, pooling, linear head."""

import logging
from contextlib import nullcontext
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llm_cls.config.schema import Config, EngineConfig
from llm_cls.data.batches import Batch
from llm_cls.engine.packed import make_fast, packed_states, undo_fast
from llm_cls.engine.runner import FusedDecoder
from llm_cls.engine.spec import describe, obstacle
from llm_cls.model.lora import add_adapter
from llm_cls.model.pooling import pad, pool

log = logging.getLogger(__name__)


class TextClassifier(nn.Module):
    """Gives every text of a batch one logit per label.

    Attributes:
        decoder: The pretrained network, a ``PeftModel`` where there is an adapter.
        head: Linear without bias, float32.
        packed: Whether the texts of a batch are one sequence (``fused`` and ``packed.py``) or padded side by side.
    """

    def __init__(self, decoder: nn.Module, hidden_size: int, n_labels: int, pooling: str) -> None:
        """Puts a new head on ``decoder``."""
        super().__init__()
        self.decoder = decoder
        self.head = nn.Linear(hidden_size, n_labels, bias=False, dtype=torch.float32)
        self.pooling = pooling
        self.packed = False
        self._full = False
        self._attention = ""
        self._max_length = 0
        self._fused: FusedDecoder | None = None

    def forward(self, batch: Batch) -> Tensor:
        """Logits of ``batch``, float32, shape ``(n, n_labels)``."""
        if self._fused is not None:
            with torch.autocast(batch.input_ids.device.type, enabled=False):
                pooled = self._fused(batch.input_ids, batch.lengths, batch.first_token, self.training)
        elif self.packed:
            # What is frozen has the type of the arithmetic already; only full training still needs autocast.
            with nullcontext() if self._full else torch.autocast(batch.input_ids.device.type, enabled=False):
                pooled = packed_states(self.decoder, batch.input_ids, batch.lengths, self._max_length)
        else:
            input_ids, attention_mask = pad(batch.input_ids, batch.lengths)
            hidden = self.decoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            pooled = pool(hidden, batch.lengths, self.pooling)
        with torch.autocast(pooled.device.type, enabled=False):  # the head keeps float32 under mixed precision
            logits: Tensor = self.head(pooled.float())
        return logits

    @property
    def layers(self) -> str:
        """How the decoder's layers are computed: "fused", "packed" or "padded"."""
        return "fused" if self._fused is not None else "packed" if self.packed else "padded"

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit on the device at a time; None where nothing is known to limit them."""
        return None if self._fused is None else self._fused.max_tokens

    @property
    def max_eval_tokens(self) -> int | None:
        """The same for scoring, which keeps nothing."""
        return None if self._fused is None else self._fused.memory.max_eval_tokens

    def use_fast_engine(
        self, decoder: PreTrainedModel, engine: EngineConfig, full: bool, max_length: int, max_texts: int
    ) -> None:
        """Packs the texts from now on, and fuses the layers where their architecture and adapters are known.

        Args:
            decoder: The pretrained network inside ``self.decoder``.
            engine: "fast" or "fp8".
            full: Whether the whole network is, or was, trained.
            max_length: Tokens per text at most.
            max_texts: Texts per training batch at most.
        """
        self._max_length, self._full = max_length, full
        self._attention = str(decoder.config._attn_implementation)
        reason = "the whole network is trained" if full else obstacle(decoder, self.pooling)
        if not reason:
            blocks = describe(decoder, max_length, fp8=engine.name == "fp8")
            self._fused = FusedDecoder(blocks, max_length, max_texts, engine.gradient_checkpointing)
            self.packed = True
            return
        level = logging.WARNING if engine.name == "fp8" else logging.INFO  # no 8-bit floats there
        log.log(level, "engine=%s: the layers are those of transformers: %s", engine.name, reason)
        if self.pooling == "last":
            compiled = decoder.device.type == "cuda" if engine.compile is None else engine.compile
            self.packed = make_fast(self.decoder, decoder, compiled)

    def release(self) -> PreTrainedModel:
        """Gives the frozen decoder back as it was before ``build_classifier``; this object is of no use then."""
        network: Any = self.decoder
        decoder: PreTrainedModel = network.unload() if isinstance(network, peft.PeftModel) else network
        self._fused = None  # which holds graphs and copies of weights
        undo_fast(decoder, self._attention)
        decoder.gradient_checkpointing_disable()
        decoder.disable_input_require_grads()
        decoder.eval()
        return decoder

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors that training changes, by name: adapter and head, or all of them."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def count_parameters(self) -> tuple[int, int]:
        """Number of all and of trainable parameters."""
        counts = [(p.numel(), p.numel() if p.requires_grad else 0) for p in self.parameters()]
        return sum(n for n, _ in counts), sum(n for _, n in counts)


def build_classifier(
    decoder: PreTrainedModel, config: Config, n_labels: int, gradient_checkpointing: bool
) -> TextClassifier:
    """The classifier that ``config`` describes, ready to train.

    Adapter and head are drawn on the CPU from ``config.seed``, so that they are the same on every device.
    """
    device = decoder.device
    hidden_size: int = decoder.config.hidden_size
    decoder.requires_grad_(config.lora.full)  # a decoder that served another run may be frozen
    if gradient_checkpointing:
        settings: dict[str, Any] = {"use_reentrant": False}
        decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
        decoder.enable_input_require_grads()  # else nothing upstream of the first adapter asks for gradients
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = add_adapter(decoder, config.lora) if config.lora.enabled else decoder
        classifier = TextClassifier(network, hidden_size, n_labels, config.model.pooling)
    classifier.to(device)
    if config.engine.name != "reference":
        max_texts = config.data.micro_batch_size or config.data.batch_size
        classifier.use_fast_engine(decoder, config.engine, config.lora.full, config.data.max_length, max_texts)
    return classifier
