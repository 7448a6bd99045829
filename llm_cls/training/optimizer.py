"""AdamW without decay on vectors, linear warm-up, linear decay."""

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_linear_schedule_with_warmup

from llm_cls.config.schema import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> AdamW:
    """AdamW over the trainable parameters.

    Biases, norm weights and DoRA magnitudes are the parameters with fewer than two dimensions; they have
    no weight decay.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    # The fused kernel unscales float16 gradients itself, which would be after the clipping.
    fused = config.max_grad_norm is None
    return AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def build_schedule(optimizer: AdamW, config: OptimizerConfig, steps_per_epoch: int, max_epochs: int) -> LambdaLR:
    """The learning rate per optimizer step: 0 at the first, ``lr`` after the warm-up, 0 after the last."""
    schedule: LambdaLR = get_linear_schedule_with_warmup(
        optimizer, round(config.warmup_epochs * steps_per_epoch), max_epochs * steps_per_epoch
    )
    return schedule
