"""The training loss against torch's, in float64; the class weights against scikit-learn's."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F

from llm_cls.config.loss import LossConfig
from llm_cls.data.batches import TrainSteps
from llm_cls.data.corpus import Corpus, Text
from llm_cls.data.tokens import Tokens
from llm_cls.data.weights import class_weights
from llm_cls.errors import ConfigError
from llm_cls.metrics.selection import MONITORS
from llm_cls.runs.directory import RunDirectory
from llm_cls.training.devices import Hardware
from llm_cls.training.loss import training_loss
from llm_cls.training.recorder import RunRecorder
from llm_cls.training.trainer import build_trainer
from tests.unit.engine.networks import LENGTHS, batch, build, config

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(40, 5, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(0, 5, (40,), generator=GENERATOR)
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5, 7.0], dtype=torch.float64)


def gradient(loss: Any) -> tuple[float, Tensor]:
    """The value and the gradient of a function of the logits."""
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    assert logits.grad is not None
    return value.item(), logits.grad


def focal(logits: Tensor, gamma: float, weights: Tensor) -> Tensor:
    """Focal loss as in the paper, without regard to rounding."""
    p = logits.softmax(1)[torch.arange(len(LABELS)), LABELS]
    w = weights[LABELS]
    return (w * (1 - p) ** gamma * -p.log()).sum() / w.sum()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_cross_entropy_is_torchs_mean(weights: Tensor | None, smoothing: float) -> None:
    config = LossConfig(label_smoothing=smoothing)
    total = 40.0 if weights is None else weights[LABELS].sum().item()
    ours, own = gradient(lambda logits: training_loss(logits, LABELS, total, config, weights))
    theirs, other = gradient(lambda logits: F.cross_entropy(logits, LABELS, weights, label_smoothing=smoothing))
    assert ours == pytest.approx(theirs, rel=1e-12)
    torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_that_of_the_paper(weights: Tensor | None, gamma: float) -> None:
    config, full = LossConfig(name="focal", gamma=gamma), torch.ones(5).double() if weights is None else weights
    total = full[LABELS].sum().item()
    ours, own = gradient(lambda logits: training_loss(logits, LABELS, total, config, weights))
    theirs, other = gradient(lambda logits: focal(logits, gamma, full))
    assert ours == pytest.approx(theirs, rel=1e-12)
    torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-14)
    if gamma == 0:
        assert ours == pytest.approx(F.cross_entropy(LOGITS, LABELS, weights).item(), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_certain_texts_has_finite_gradients(gamma: float) -> None:
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]], requires_grad=True)
    loss = training_loss(logits, torch.zeros(2, dtype=torch.int64), 2, LossConfig(name="focal", gamma=gamma))
    loss.backward()
    assert loss.item() == 50.0 and logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [-0.5, 0.5]]))


def test_at_the_defaults_the_arithmetic_is_that_of_earlier_versions() -> None:
    logits = LOGITS.float()
    before = F.cross_entropy(logits, LABELS, reduction="sum") / len(LABELS)
    assert torch.equal(training_loss(logits, LABELS, float(len(LABELS)), LossConfig()), before)


@pytest.mark.parametrize(("world_size", "micro"), [(1, 7), (1, 40), (2, 3), (3, 5), (7, 1)])
@pytest.mark.parametrize("config", [LossConfig(), LossConfig(label_smoothing=0.1), LossConfig(name="focal")])
def test_the_parts_of_a_step_add_up_to_its_weighted_mean(config: LossConfig, world_size: int, micro: int) -> None:
    tokens, labels = Tokens(np.arange(80, dtype=np.int32), np.arange(0, 82, 2)), LABELS.numpy()
    steps = [np.random.default_rng(0).permutation(40)[:30], np.arange(3)]
    for s, step in enumerate(steps):
        total = torch.zeros((), dtype=torch.float64)
        for rank in range(world_size):
            share = TrainSteps(tokens, labels, steps, micro, rank, world_size, WEIGHTS.numpy())[s]
            assert share.weight == pytest.approx(WEIGHTS[LABELS[step]].sum().item(), rel=1e-12)
            for part in share.micro_batches:
                total += training_loss(LOGITS[part.indices], part.labels, share.weight, config, WEIGHTS)
        own = LOGITS[step], LABELS[step]
        if config.name == "cross_entropy":
            expected = F.cross_entropy(*own, WEIGHTS, label_smoothing=config.label_smoothing)
        else:
            w, p = WEIGHTS[own[1]], own[0].softmax(1)[torch.arange(len(step)), own[1]]
            expected = (w * (1 - p) ** 2 * -p.log()).sum() / w.sum()
        assert total.item() == pytest.approx(expected.item(), rel=1e-12)


def corpus(train: str, rest: str = "") -> Corpus:
    """A corpus whose labels are letters."""

    def texts(letters: str) -> tuple[Text, ...]:
        return tuple(Text(str(i), letter, "", "") for i, letter in enumerate(letters))

    labels = tuple(sorted({*train, *rest}))
    return Corpus("mine", labels, {"train": texts(train), "val": texts(rest), "test": ()}, "d", False)


def test_balanced_weights_are_scikit_learns() -> None:
    train = "aabbbbbbbcad"
    found = class_weights(LossConfig(class_weights="balanced"), corpus(train, "bbbb"))
    expected = compute_class_weight("balanced", classes=np.array(list("abcd")), y=np.array(list(train)))
    np.testing.assert_allclose(found, expected, rtol=1e-15)  # type: ignore[arg-type]


def test_labels_that_a_mapping_leaves_out_weigh_1() -> None:
    found = class_weights(LossConfig(class_weights={"b": 3.0, "a": 0.5}), corpus("abc"))
    assert found is not None and found.tolist() == [0.5, 3.0, 1.0]
    assert class_weights(LossConfig(), corpus("abc")) is None


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ("balanced", r"loss.class_weights=balanced needs a training text of every label, 'z' has none\. Give .*"),
        ({"a": 1.0, "y": 2.0}, r"loss.class_weights names 'y', which is not a label of mine\. Known: a, b, z\."),
    ],
)
def test_weights_that_do_not_fit_the_labels(weights: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}$"):
        class_weights(LossConfig(class_weights=weights), corpus("ab", "z"))


@pytest.mark.parametrize(
    "overrides",
    [(), ("loss.label_smoothing=0.1", "loss.class_weights={a:3}"), ("loss=focal", "loss.class_weights={a:3}")],
)
def test_the_engines_have_the_same_loss(overrides: tuple[str, ...]) -> None:
    """On a whole batch with padding, and on its parts without."""
    reference, fast = (build(engine, "neox", "lora.lora_dropout=0") for engine in ("reference", "fast"))
    loss, whole = config(*overrides).loss, batch(LENGTHS)
    weights = torch.tensor([3.0, 1, 1, 1, 1]) if loss.class_weights else None
    total = float(len(LENGTHS)) if weights is None else weights[whole.labels].sum().item()
    with torch.no_grad():
        expected = training_loss(reference(whole), whole.labels, total, loss, weights)
        found = sum(training_loss(fast(part), part.labels, total, loss, weights) for part in whole.split(40))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("monitor", "mode"), [("f1", "max"), ("mcc", "max"), ("loss", "min")])
def test_early_stopping_follows_the_monitor(monitor: str, mode: str, tmp_path: Path) -> None:
    made = config(f"trainer.monitor={monitor}", "trainer.early_stopping_patience=2", "trainer.progress_bar=false")
    inputs: Any = Mock(config=made, hardware=Hardware("cpu", 1, 1, "32-true", torch.float32))
    recorder = RunRecorder(RunDirectory(tmp_path), 1, "id", None, monitor=MONITORS[monitor])
    logger: Any = Mock(lightning=False)
    trainer = build_trainer(inputs, RunDirectory(tmp_path), recorder, logger, 1, Mock())
    assert [(c.monitor, c.mode) for c in trainer.callbacks if isinstance(c, EarlyStopping)] == [  # type: ignore[attr-defined]
        (f"val/{monitor}", mode)
    ]
