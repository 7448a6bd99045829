"""The classifier: decoder with adapter, pooling, linear head."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llm_cls.config.schema import Config, EngineConfig
from llm_cls.data.batches import Batch
from llm_cls.engine.interface import Encoder
from llm_cls.engine.kernels import unusable_reason
from llm_cls.engine.layers import FusedLayers, build_layers, unsupported_reason
from llm_cls.engine.length_groups import grouped
from llm_cls.engine.packed import PackedDecoder, pack
from llm_cls.engine.probe import FAILURES, Probe, state_size
from llm_cls.engine.runner import FusedDecoder
from llm_cls.errors import ConfigError, first_line, lacks_memory
from llm_cls.model.lora import add_adapter
from llm_cls.model.pooling import PaddedDecoder, SingleDecoder

log = logging.getLogger(__name__)


class TextClassifier(nn.Module):
    """Computes one logit per label for every text of a batch.

    Attributes:
        decoder: The pretrained network, a ``PeftModel`` where there is an adapter.
        head: Linear without bias, float32.
        pooling: "last" or "first": the token whose hidden state is classified.
        encoder: How hidden states are computed.
    """

    def __init__(self, decoder: nn.Module, hidden_size: int, n_labels: int, pooling: str) -> None:
        """Puts a new head on ``decoder``."""
        super().__init__()
        self.decoder = decoder
        self.head = nn.Linear(hidden_size, n_labels, bias=False, dtype=torch.float32)
        self.pooling = pooling
        self.encoder: Encoder = PaddedDecoder(decoder, pooling)

    def forward(self, batch: Batch) -> Tensor:
        """Logits of ``batch``, float32, shape ``(n, n_labels)``."""
        pooled = self.encoder(batch.input_ids, batch.lengths, batch.first_token, self.training)
        with torch.autocast(pooled.device.type, enabled=False):  # the head keeps float32 under mixed precision
            logits: Tensor = self.head(pooled.float())
        return logits

    def use_engine(
        self,
        decoder: PreTrainedModel,
        engine: EngineConfig,
        full: bool,
        max_length: int,
        max_texts: int,
        compiled: bool = False,
        frozen: FusedLayers | None = None,
    ) -> None:
        """Chooses how hidden states are computed: the fastest way that gives what a text by itself gives.

        Args:
            decoder: The pretrained network inside ``self.decoder``.
            engine: "fast" or "fp8" for fused layers or packed batches, where the decoder supports them; "reference" for
                padded batches.
            full: Whether the whole network is, or was, trained.
            max_length: Tokens per text at most.
            max_texts: Texts per training batch at most.
            compiled: Whether packed layers are compiled.
            frozen: See ``build_layers``.

        Raises:
            ConfigError: The decoder cannot compute a text of any length.
        """
        if engine.name != "reference":
            reason = "the whole network is trained" if full else unsupported_reason(decoder, self.pooling)
            if not reason:
                layers = build_layers(decoder, max_length, engine.name == "fp8", frozen)
                self.encoder = FusedDecoder(layers, max_length, max_texts, engine.gradient_checkpointing)
                return
            # Only the fused layers have fp8; and a missing compiler can be installed.
            warns = engine.name == "fp8" or (not full and reason == unusable_reason(decoder.device))
            log.log(
                logging.WARNING if warns else logging.INFO,
                "engine=%s uses the layers of transformers: %s",
                engine.name,
                reason,
            )
        with _in_evaluation(self.decoder):
            self.encoder = self._checked_encoder(decoder, engine, full, max_length, compiled)

    def _checked_encoder(
        self, decoder: PreTrainedModel, engine: EngineConfig, full: bool, max_length: int, compiled: bool
    ) -> Encoder:
        """Packed batches, padded ones or single texts: the first of them that keeps the states of single texts."""
        probe = _probe(self.decoder, decoder, self.pooling, max_length)
        if engine.name != "reference" and self.pooling == "last":
            packed = pack(self.decoder, decoder, probe, max_length, autocast=full, compiled=compiled)
            if isinstance(packed, PackedDecoder):
                return grouped(packed, decoder.config, max_length)
            log.warning("Batches are padded instead of packed: %s", packed)
        padded = grouped(PaddedDecoder(self.decoder, self.pooling), decoder.config, max_length)
        if not (reason := probe.disagreement(padded)):
            return padded
        log.warning("Each text is computed by itself, which is slow: in a padded batch %s", reason)
        return SingleDecoder(self.decoder, self.pooling)

    def release(self) -> PreTrainedModel:
        """The frozen decoder as it was before ``build_classifier``; the classifier cannot be used afterwards."""
        network: Any = self.decoder
        decoder: PreTrainedModel = network.unload() if isinstance(network, peft.PeftModel) else network
        self.encoder.release()
        self.encoder = PaddedDecoder(decoder, self.pooling)  # drops graphs and copies of weights
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
    decoder: PreTrainedModel,
    config: Config,
    n_labels: int,
    gradient_checkpointing: bool,
    compiled: bool = False,
    frozen: FusedLayers | None = None,
) -> TextClassifier:
    """The classifier that ``config`` describes, ready to train.

    Adapter and head are drawn on the CPU from ``config.seed``, so that they are the same on every device.

    Args:
        decoder: The pretrained network; it may have served another run.
        config: The run's configuration.
        n_labels: Outputs of the head.
        gradient_checkpointing: Whether the layers of ``transformers`` recompute their activations.
        compiled: Whether layers of ``transformers`` on packed batches are compiled.
        frozen: See ``engine.layers.build_layers``.
    """
    device = decoder.device
    with failures_in_one_line(decoder):
        hidden_size = state_size(decoder)
    decoder.requires_grad_(config.lora.full)  # an earlier run may have frozen it
    if gradient_checkpointing:
        settings: dict[str, Any] = {"use_reentrant": False}
        decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
        decoder.enable_input_require_grads()  # otherwise the input of the first adapter requires no gradient
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = add_adapter(decoder, config.lora) if config.lora.enabled else decoder
        classifier = TextClassifier(network, hidden_size, n_labels, config.model.pooling)
    classifier.to(device)
    max_texts = config.data.micro_batch_size or config.data.batch_size
    classifier.use_engine(decoder, config.engine, config.lora.full, config.data.max_length, max_texts, compiled, frozen)
    return classifier


@contextmanager
def _in_evaluation(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _probe(network: nn.Module, decoder: PreTrainedModel, pooling: str, max_length: int) -> Probe:
    """The probe of a network in evaluation mode, which is tried in training mode too; its attention is corrected.

    The default attention of transformers silently leaves out what some architectures ask for, such as soft caps; then
    the plain one replaces it.

    Raises:
        ConfigError: The network cannot compute a text.
    """
    with failures_in_one_line(decoder):
        probe = Probe.of(network, pooling, max_length)
        network.train()
        probe.attempt(network)
        network.eval()
        default = decoder.config._attn_implementation
        if default == "eager" or not decoder._can_set_attn_implementation():
            return probe
        decoder.set_attn_implementation("eager")
        if not (change := probe.change(network)):
            decoder.set_attn_implementation(default)
            return probe
        log.info("The attention is eager: with %s, the default of transformers, %s", default, change)
        return Probe.of(network, pooling, max_length)


@contextmanager
def failures_in_one_line(decoder: PreTrainedModel) -> Iterator[None]:
    """Explains why a network cannot be run at all.

    Raises:
        ConfigError: The reason.
    """
    try:
        yield
    except FAILURES as error:
        if lacks_memory(error):
            raise
        raise ConfigError(
            f"model.name: this {decoder.config.model_type} model cannot compute a text: {type(error).__name__}: "
            f"{first_line(error).rstrip('.')}. Choose another model, other lora.target_modules, or trainer.precision"
        ) from None
