"""What processes of a run need not tell one another."""

from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import ddp
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.trainer.states import TrainerFn

from llm_cls.training.distributed import ReplicatedStrategy, leave_signals_to_command


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Mock:
    sent = Mock()
    monkeypatch.setattr(dist, "broadcast", sent)
    monkeypatch.setattr(ddp, "_sync_module_states", sent)
    return sent


def test_weights_are_sent_before_training_alone(sent: Mock) -> None:
    module = LightningModule()
    module.trained, module.frozen = torch.nn.Linear(2, 2), torch.nn.Linear(9, 9)
    module.frozen.requires_grad_(False)
    sizes = {}
    for fn in (TrainerFn.FITTING, TrainerFn.VALIDATING, TrainerFn.TESTING):
        strategy = ReplicatedStrategy(Mock(timeout_seconds=60.0))
        strategy._accelerator, strategy.parallel_devices = Mock(), [torch.device("cpu")]
        strategy.connect(module)
        strategy.setup_optimizers = Mock()  # type: ignore[method-assign]
        sent.reset_mock()
        trainer: Any = Mock()
        trainer.state.fn = fn
        strategy.setup(trainer)
        sizes[fn] = [call.args[0].numel() for call in sent.call_args_list]
    assert sizes == {TrainerFn.FITTING: [4, 2], TrainerFn.VALIDATING: [], TrainerFn.TESTING: []}


def test_no_step_asks_for_signals(sent: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hasattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor") and hasattr(
        _SignalConnector, "_sigterm_notifier_fn"
    )
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    leave_signals_to_command(trainer)
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    trainer._signal_connector._sigterm_notifier_fn(15, None)  # type: ignore[arg-type]
    assert not sent.called and not trainer.received_sigterm
