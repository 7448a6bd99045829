"""How many optimizer steps a run has had, and when they are too few to judge it."""

ENOUGH_STEPS = 200  # in fewer, even the sample corpus is hardly learnt, whatever the learning rate


def count_steps(n_train: int, batch_size: int, epochs: int) -> int:
    """Optimizer steps in ``epochs`` epochs of ``n_train`` texts; the last step of an epoch may be smaller.

    >>> count_steps(100, 32, 3)
    12
    """
    return epochs * -(-n_train // batch_size)


def too_few_steps(steps: int) -> str:
    """Why a collapsed run says little about its configuration; empty after enough steps."""
    return f"too few steps: {steps}, where some {ENOUGH_STEPS} are usual" if steps < ENOUGH_STEPS else ""
