"""From a corpus to batches."""

import logging

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


class TextDataModule(LightningDataModule):
    """The training steps and evaluation batches of a corpus on this device.

    Attributes:
        corpus: The texts and labels.
        tokens: The token ids of each split, in the order of the corpus.
        class_weights: Weight of each label in training, shape ``(n_labels,)``; None where all texts count the same.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        template: TemplateConfig,
        config: DataConfig,
        seed: int,
        class_weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Tokenizes ``corpus``, or reads its tokens from the cache."""
        super().__init__()
        self.corpus, self._config, self._seed = corpus, config, seed
        self.class_weights = class_weights
        self.tokens: dict[str, Tokens] = {}
        self._labels: dict[str, npt.NDArray[np.int64]] = {}
        index = {label: i for i, label in enumerate(corpus.labels)}
        parts = layout(template, config)
        for split in SPLITS:
            texts = corpus.splits[split]
            pieces = [render(parts, text.values) for text in texts]
            self.tokens[split] = tokenize_cached(
                pieces, tokenizer, config.max_length, config.truncation, config.cache_dir
            )
            self._labels[split] = np.array([index[text.label] for text in texts], np.int64)
            if split == "train":
                _warn_of_characters(["".join(p) for p in pieces], tokenizer)

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


def _warn_of_characters(texts: list[str], tokenizer: Tokenizer) -> None:
    """Some tokenizers, such as those that transformers makes from GGUF files, cut long texts into characters."""
    rate = tokens_per_character(texts, tokenizer)
    if rate is not None and abs(rate - 1) <= _ONE_PER_CHARACTER:
        log.warning(
            "The tokenizer gives %.2f tokens per character on long texts. If it was made from a GGUF file, give the "
            "model's own: model.tokenizer=FOLDER", rate,
        )  # fmt: skip
