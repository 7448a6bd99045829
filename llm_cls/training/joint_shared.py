"""What the runs of a pass share; ``joint.py`` trains them."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from llm_cls.config.schema import Config
from llm_cls.engine.layers import FusedLayers, build_layers, unsupported_reason
from llm_cls.engine.runner import FusedDecoder
from llm_cls.model.classifier import TextClassifier
from llm_cls.model.decoder import shared_copy
from llm_cls.training.run_thread import JointEncoder, RunThread
from llm_cls.training.shared import Shared


class JointShared(Shared):
    """What the runs of a pass share: also the decoder, around whose tensors each run gets modules of its own."""

    shows_progress = False

    def __init__(self) -> None:
        """Holds nothing yet."""
        super().__init__()
        self._decoder: PreTrainedModel | None = None
        self._frozen: FusedLayers | None = None

    def over(self, shared: Shared) -> "JointShared":
        """This object, which from now on keeps what it loads where ``shared`` does, and uses its processes."""
        self._kept, self.ranks, self.wandb = shared._kept, shared.ranks, shared.wandb
        return self

    def take_decoder(
        self, config: Config, architecture: PretrainedConfig, dtype: torch.dtype, device: torch.device
    ) -> PreTrainedModel:
        """See ``Shared``: a copy, the tensors of which must stay as they are."""
        if self._decoder is None:
            self._decoder = super().take_decoder(config, architecture, dtype, device)
            if not unsupported_reason(self._decoder, config.model.pooling):
                self._frozen = build_layers(self._decoder, config.data.max_length, config.engine.name == "fp8")
        else:
            gc.collect()  # what a finished run left in reference cycles takes memory that this run needs
        return shared_copy(self._decoder)

    def return_decoder(self, decoder: PreTrainedModel, config: Config) -> None:
        """Keeps the decoder itself for the runs after the pass; ``decoder`` is a copy."""
        if self._decoder is not None:
            super().return_decoder(self._decoder, config)

    @property
    def frozen_layers(self) -> FusedLayers | None:
        """See ``Shared``."""
        return self._frozen

    def join(self, classifier: TextClassifier) -> None:
        """See ``Shared``."""
        if isinstance(classifier.encoder, FusedDecoder):
            classifier.encoder = JointEncoder(classifier.encoder)


class JointRun(RunThread):
    """A run of a pass.

    Attributes:
        shared: What it shares with the others.
    """

    def __init__(self, name: str, action: Callable[[], Any], shared: JointShared) -> None:
        """See ``RunThread``."""
        super().__init__(name, action)
        self.shared = shared
