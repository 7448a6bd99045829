"""From a corpus to batches."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from llm_cls.config.schema import DataConfig, TemplateConfig
from llm_cls.data.batches import SCORING_TEXTS, Batch, EvalBatches, Step, TrainSteps, step_indices, total_weight
from llm_cls.data.corpus import SPLITS, Corpus
from llm_cls.data.template import layout, render
from llm_cls.data.tokenizer import Tokenizer
from llm_cls.data.tokens import Tokens, check_ids, tokenize_cached, tokens_per_character

log = logging.getLogger(__name__)

_ONE_PER_CHARACTER = 0.05  # distance from 1


@dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus in a template, as token ids; runs of a sweep may share it.

    Attributes:
        corpus: The texts and labels.
        tokens: The token ids of each split, in the order of the corpus.
        per_character: See ``tokens.tokens_per_character``, of the training texts.
    """

    corpus: Corpus
    tokens: Mapping[str, Tokens]
    per_character: float | None


def tokenize_corpus(
    corpus: Corpus, tokenizer: Tokenizer, template: TemplateConfig, config: DataConfig
) -> TokenizedCorpus:
    """Tokenizes ``corpus``, or reads its tokens from the cache."""
    parts = layout(template, config)
    pieces = {split: [render(parts, text.values) for text in corpus.splits[split]] for split in SPLITS}
    tokens = {
        split: tokenize_cached(pieces[split], tokenizer, config.max_length, config.truncation, config.cache_dir)
        for split in SPLITS
    }
    return TokenizedCorpus(corpus, tokens, tokens_per_character(["".join(p) for p in pieces["train"]], tokenizer))


class TextDataModule(LightningDataModule):
    """The training steps and evaluation batches of a corpus on this device.

    Attributes:
        corpus: The texts and labels.
        tokens: The token ids of each split, in the order of the corpus.
        class_weights: Weight of each label in training, shape ``(n_labels,)``; None where all texts count the same.
    """

    def __init__(
        self,
        tokenized: TokenizedCorpus,
        config: DataConfig,
        seed: int,
        class_weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Takes a corpus as token ids."""
        super().__init__()
        self.corpus, self.tokens, self._config, self._seed = tokenized.corpus, tokenized.tokens, config, seed
        self.class_weights = class_weights
        index = {label: i for i, label in enumerate(self.corpus.labels)}
        self._labels = {
            split: np.array([index[text.label] for text in self.corpus.splits[split]], np.int64) for split in SPLITS
        }
        _warn_of_characters(tokenized.per_character)

    def check_ids(self, tokenizer: Tokenizer, n_embeddings: int | None) -> None:
        """See ``tokens.check_ids``."""
        for tokens in self.tokens.values():
            check_ids(tokens, tokenizer, n_embeddings)

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps per epoch; it does not depend on the number of devices."""
        return -(-len(self.tokens["train"]) // self._config.batch_size)

    @property
    def train_weight(self) -> float:
        """See ``batches.total_weight``, of all training texts."""
        return total_weight(self._labels["train"], self.class_weights)

    def micro_batch_size(self, world_size: int) -> int:
        """Number of texts per forward pass on one of ``world_size`` devices."""
        share = -(-self._config.batch_size // world_size)
        return min(self._config.micro_batch_size or share, share)

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Class indices of the texts of a split, shape ``(n,)``."""
        return self._labels[split]

    def train_dataloader(self) -> DataLoader[Step]:
        """The steps of the current epoch; the trainer calls it every epoch."""
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        tokens = self.tokens["train"]
        steps = step_indices(len(tokens), self._config.batch_size, self._seed, self.trainer.current_epoch)
        micro_batch_size = self.micro_batch_size(world_size)
        dataset = TrainSteps(
            tokens, self._labels["train"], steps, micro_batch_size, rank, world_size, self.class_weights
        )
        return DataLoader(dataset, batch_size=None, pin_memory=torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader[Batch]:
        """The texts of the val split on this device."""
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The texts of the test split on this device."""
        return self._eval_dataloader("test")

    def _eval_dataloader(self, split: str) -> DataLoader[Batch]:
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        least = SCORING_TEXTS[self.trainer.strategy.root_device.type]
        size = self._config.eval_batch_size or max(2 * self.micro_batch_size(world_size), least)
        dataset = EvalBatches(self.tokens[split], self._labels[split], size, rank, world_size)
        return DataLoader(dataset, batch_size=None, pin_memory=torch.cuda.is_available())


def _warn_of_characters(rate: float | None) -> None:
    """Some tokenizers, such as those that transformers makes from GGUF files, cut long texts into characters."""
    if rate is not None and abs(rate - 1) <= _ONE_PER_CHARACTER:
        log.warning(
            "The tokenizer gives %.2f tokens per character on long texts. If it was made from a GGUF file, give the "
            "model's own: model.tokenizer=FOLDER", rate,
        )  # fmt: skip
