"""The weight of each label in the training loss."""

from collections import Counter

import numpy as np

from llm_cls.config.loss import LossConfig
from llm_cls.config.messages import echo, nearest
from llm_cls.data.corpus import Corpus
from llm_cls.errors import ConfigError
from llm_cls.metrics.scores import Floats


def class_weights(config: LossConfig, corpus: Corpus) -> Floats | None:
    """The weights, shape ``(n_labels,)`` in the order of ``corpus.labels``; None where all texts count the same.

    "balanced" is that of scikit-learn's ``compute_class_weight``: n_texts / (n_labels * n_texts_of_the_label), over the
    training texts.

    Raises:
        ConfigError: A named label is unknown, or a label has no training text from which its weight could be computed.
    """
    labels, wanted = corpus.labels, config.class_weights
    if wanted is None:
        return None
    if wanted == "balanced":
        texts = corpus.splits["train"]
        counts = Counter(text.label for text in texts)
        if missing := [label for label in labels if not counts[label]]:
            raise ConfigError(
                f"loss.class_weights=balanced needs a training text of every label, {echo(missing[0])!r} has none. "
                "Give the weights by label, or another data.split_seed or data.limit"
            )
        return np.array([len(texts) / (len(labels) * counts[label]) for label in labels])
    if unknown := [label for label in wanted if label not in labels]:
        raise ConfigError(
            f"loss.class_weights names {echo(unknown[0])!r}, which is not a label of {corpus.name}. "
            f"{nearest(unknown[0], labels)}"
        )
    return np.array([wanted.get(label, 1.0) for label in labels])
