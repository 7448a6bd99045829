"""How sure a score is."""

import numpy as np
import numpy.typing as npt

from llm_cls.scores import macro_f1


def f1_ci95(confusion: npt.NDArray[np.int64], seed: int = 0, n_resamples: int = 2000) -> tuple[float, float]:
    """95 % interval of macro F1 by the percentile bootstrap over texts (Efron, 1979).

    Macro F1 depends on the texts through the counts alone, and drawing n texts with replacement makes each
    cell's count multinomial with the cell's share as its probability: no text has to be drawn.

    Args:
        confusion: Counts of shape ``(n_labels, n_labels)``.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Returns:
        Lower and upper bound.
    """
    n_texts = int(confusion.sum())
    draws = np.random.default_rng(seed).multinomial(n_texts, confusion.ravel() / n_texts, size=n_resamples)
    low, high = np.percentile(macro_f1(draws.reshape(-1, *confusion.shape)), [2.5, 97.5])
    return float(low), float(high)
