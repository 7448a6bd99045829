"""What an optimizer step minimises."""

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_cls.config.loss import LossConfig


def training_loss(
    logits: Tensor, labels: Tensor, normaliser: float, config: LossConfig, class_weights: Tensor | None = None
) -> Tensor:
    """The part of a step's mean loss that some of its texts contribute.

    Summed over all parts of a step, however the texts are distributed over devices and micro batches, it is
    ``F.cross_entropy(logits, labels, class_weights, label_smoothing=...)`` of the whole step; for focal loss
    (Lin et al., 2017, equation 5, with the class weights as alpha) the mean, weighted in the same way, of
    (1 - p)^gamma times the cross-entropy, where p is the probability of the text's label.

    Args:
        logits: Shape ``(n, n_labels)``.
        labels: Class indices, int64, shape ``(n,)``.
        normaliser: Sum of the class weights of all texts of the step; their number where there are no weights.
        config: Which loss.
        class_weights: Shape ``(n_labels,)``, on the device of ``logits``; None weighs all texts the same.

    Returns:
        A scalar.
    """
    if config.name == "cross_entropy":
        smoothing = config.label_smoothing
        return F.cross_entropy(logits, labels, class_weights, reduction="sum", label_smoothing=smoothing) / normaliser
    losses = F.cross_entropy(logits, labels, reduction="none")
    # 1 - p; not 0, where the derivative of a power below 1 is infinite.
    other = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)
    focal = other**config.gamma * losses
    return (focal if class_weights is None else class_weights[labels] * focal).sum() / normaliser
