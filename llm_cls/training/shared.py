"""Objects that the runs of a sweep in one process share, so that they are read and loaded once.

Only objects that no run changes are kept, and the processes of runs on several devices. Every run returns a frozen
decoder unchanged. A decoder that a run trains as a whole, or that was in use when a run failed, is reloaded.
"""

import gc
from copy import deepcopy
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from llm_cls.config.schema import Config, DataConfig, ModelConfig
from llm_cls.data.corpus import Corpus
from llm_cls.data.datamodule import TokenizedCorpus, tokenize_corpus
from llm_cls.data.load import check_corpus, read_corpus
from llm_cls.data.tokenizer import Tokenizer, load_tokenizer
from llm_cls.engine.layers import FusedLayers
from llm_cls.files import sha256_json
from llm_cls.model.classifier import TextClassifier
from llm_cls.model.decoder import eos_ids, load_architecture, load_decoder, model_revision
from llm_cls.training.launch import Ranks
from llm_cls.training.wandb_session import Service

# Keys of the section data that do not change the tokens of a corpus, and those that do not change the corpus.
_NOT_OF_TOKENS = {"keep_texts", "batch_size", "micro_batch_size", "eval_batch_size"}
_IGNORED_KEYS = _NOT_OF_TOKENS | {"max_length", "truncation", "cut"}
_MOST_TEMPLATES = 4  # of a corpus, of which the tokens are kept; the published grid has three


class Shared:
    """Holds one corpus with its tokens, one tokenizer and one decoder at a time: the latest of each.

    Attributes:
        ranks: The processes of runs on several devices; their owner ends them.
        wandb: W&B's process.
        shows_progress: Whether a run may draw a progress bar.
    """

    shows_progress = True

    def __init__(self, ranks: Ranks | None = None) -> None:
        """Holds nothing yet but ``ranks``."""
        self._kept: dict[str, tuple[Any, Any]] = {}
        self.ranks = ranks or Ranks()
        self.wandb = Service()

    def __getstate__(self) -> dict[str, Any]:
        """Pickles as empty, because nothing is sent to another process."""
        return {"_kept": {}, "ranks": Ranks(), "wandb": Service()}

    def corpus(self, config: DataConfig) -> Corpus:
        """See ``data.load``."""
        key = sha256_json(config.model_dump(mode="json", exclude=_IGNORED_KEYS))
        corpus: Corpus = self._get("corpus", key) or self._keep("corpus", key, read_corpus(config))
        check_corpus(corpus, config)
        return corpus

    def model(self, config: ModelConfig) -> tuple[PretrainedConfig, str, Tokenizer]:
        """The model's architecture, its revision, and the tokenizer that goes with it."""
        key = sha256_json(config.model_dump(mode="json"))
        model: tuple[PretrainedConfig, str, Tokenizer] | None = self._get("model", key)
        if model is None:
            architecture = load_architecture(config)
            tokenizer = load_tokenizer(config, eos_ids(architecture))
            model = self._keep("model", key, (architecture, model_revision(config, architecture), tokenizer))
        return model

    def tokenized(self, corpus: Corpus, tokenizer: Tokenizer, config: Config) -> TokenizedCorpus:
        """The corpus in the template of a run, of which the latest few are kept."""
        kept, of_templates = self._kept.get("tokens", (None, {}))
        if kept is None or kept[0] is not corpus or kept[1] is not tokenizer:  # a corpus that was read anew may differ
            of_templates = self._keep("tokens", (corpus, tokenizer), {})
        data = config.data.model_dump(mode="json", exclude=_NOT_OF_TOKENS)
        key = sha256_json([config.template.model_dump(mode="json"), data])
        if key not in of_templates:
            of_templates[key] = tokenize_corpus(corpus, tokenizer, config.template, config.data)
            for oldest in list(of_templates)[:-_MOST_TEMPLATES]:
                del of_templates[oldest]
        tokenized: TokenizedCorpus = of_templates[key]
        return tokenized

    def take_decoder(
        self, config: Config, architecture: PretrainedConfig, dtype: torch.dtype, device: torch.device
    ) -> PreTrainedModel:
        """The decoder, for one run, which returns it with ``return_decoder``; until then it is not kept."""
        key = decoder_key(config, dtype, device)
        kept: PreTrainedModel | None = self._get("decoder", key)
        self._kept.pop("decoder", None)
        gc.collect()  # what a finished run left in reference cycles takes memory that this run needs
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if kept is not None:
            return kept
        return load_decoder(config.model, deepcopy(architecture), dtype, device, config.seed)

    def return_decoder(self, decoder: PreTrainedModel, config: Config) -> None:
        """Keeps ``decoder``, which is unchanged since it was taken, for the next run."""
        self._keep("decoder", decoder_key(config, decoder.dtype, decoder.device), decoder)

    @property
    def frozen_layers(self) -> FusedLayers | None:
        """The fused layers of the decoder, where several runs use its tensors at the same time."""
        return None

    def join(self, classifier: TextClassifier) -> None:
        """Connects a run's classifier with those of the other runs, where several train together."""

    def _get(self, kind: str, key: str) -> Any:
        kept_key, value = self._kept.get(kind, ("", None))
        return value if kept_key == key else None

    def _keep(self, kind: str, key: Any, value: Any) -> Any:
        self._kept[kind] = (key, value)
        return value


def freeze_libraries() -> None:
    """Exempts what is loaded from garbage collection: ``take_decoder`` would look through it once per run.

    Garbage is collected before. A task of Ray may follow another one in the same process, and the decoder that its run
    left in reference cycles would be kept for ever.
    """
    gc.collect()
    gc.freeze()


def decoder_key(config: Config, dtype: torch.dtype, device: torch.device) -> str:
    seed = config.seed if config.model.weights == "random" else None  # draws the random weights
    return sha256_json([config.model.model_dump(mode="json"), str(dtype), str(device), seed])
