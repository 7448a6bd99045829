"""A saved classifier on this process's device, and the log-probabilities that it gives."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm
from transformers import PretrainedConfig

from llm_cls.config.schema import Config, EngineConfig
from llm_cls.data.batches import EvalBatches
from llm_cls.data.tokens import Tokens
from llm_cls.engine.products import limit_caches
from llm_cls.errors import ArtifactError
from llm_cls.metrics.evaluation import log_softmax
from llm_cls.model.artifact import load_artifact
from llm_cls.model.classifier import TextClassifier
from llm_cls.model.decoder import load_decoder
from llm_cls.runs import layout
from llm_cls.training.devices import Hardware
from llm_cls.training.distributed import gather_logits


def load_classifier(run: Path, config: Config, architecture: PretrainedConfig, hardware: Hardware) -> TextClassifier:
    """The classifier of a verified run, with its weights on the device.

    Args:
        run: The run directory.
        config: Its configuration; ``config.model`` names the weights of the training.
        architecture: The ``transformers`` configuration of the model.
        hardware: The device and the dtype of the weights.

    Raises:
        LlmClsError: The weights could not be loaded or do not fit one another.
    """
    limit_caches()
    dtype = torch.float32 if config.lora.full else hardware.frozen_dtype
    decoder = load_decoder(config.model, architecture, dtype, hardware.device, config.seed)
    classifier = load_artifact(decoder, config, run / layout.MODEL)
    # Rounding to 8 bits, or compiling, would take longer than most inputs.
    engine = EngineConfig(name="reference" if config.engine.name == "reference" else "fast")
    classifier.use_engine(decoder, engine, config.lora.full, config.data.max_length, max_texts=1)
    return classifier


@torch.inference_mode()
def log_probabilities(
    classifier: TextClassifier,
    tokens: Tokens,
    batch_size: int,
    hardware: Hardware,
    progress: "tqdm[Any] | None" = None,
) -> npt.NDArray[np.float64]:
    """The log-probability of every label for every text, shape ``(n, n_labels)``, in the order of the texts.

    The texts are sorted by length and scored in batches of ``batch_size``: the same tokens give the same bits.

    Args:
        classifier: As ``load_classifier`` returns it.
        tokens: The texts.
        batch_size: Texts per forward pass.
        hardware: The device, and the precision of the products.
        progress: Is told of the texts as they are scored.

    Raises:
        ArtifactError: A score is not finite.
    """
    batches = EvalBatches(tokens, np.full(len(tokens), -1, np.int64), batch_size)
    logits, indices = [], []
    with torch.autocast(hardware.device.type, hardware.frozen_dtype, enabled=hardware.precision != "32-true"):
        for i in range(len(batches)):
            batch = batches[i]
            batch.input_ids = batch.input_ids.to(hardware.device)
            logits += [classifier(part) for part in batch.split(classifier.encoder.max_eval_tokens)]
            indices += batch.indices
            if progress is not None:
                progress.update(len(batch.lengths))
    found = gather_logits(logits, indices, len(tokens), classifier.head.out_features)
    if not np.isfinite(found).all():
        raise ArtifactError("The model of this run gives scores that are not finite. Train it again")
    return log_softmax(found.astype(np.float64))
