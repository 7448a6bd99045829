"""The rule by which the best of several results is selected."""


def improves(f1: float, best_f1: float) -> bool:
    """Whether an epoch with val macro-F1 ``f1`` is better than the best one before it, which has ``best_f1``.

    The first one stays the best on a tie, and NaN, the score of logits that are not finite, is never better.

    >>> improves(0.9, float("-inf")), improves(0.9, 0.9), improves(float("nan"), 0.1)
    (True, False, False)
    """
    return f1 > best_f1
