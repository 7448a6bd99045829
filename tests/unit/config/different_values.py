"""For every key of the schema, a valid value that differs from that of the default configuration."""

from collections.abc import Mapping
from typing import Any

from llm_cls.config.schema import Config

TABLE = {"data.name": "table", "data.file": "texts.csv", "data.text": "text", "data.label": "label",
         "template.name": "text", "template.text": "{body}"}  # fmt: skip
SEPARATE = {**{k: v for k, v in TABLE.items() if k != "data.file"}, "data.train_file": "train.csv",
            "data.val_file": "val.csv", "data.test_file": "test.csv"}  # fmt: skip
COLUMNS = {"data.name": "table", "data.file": "texts.csv", "data.label": "label", "data.title": "title",
           "data.body": "body"}  # fmt: skip

# Keys of which only some values are valid, and what must be given together with them.
_SPECIAL: dict[str, dict[str, Any]] = {
    "data.name": {"data.name": "sample"},
    "data.file": TABLE,
    "data.text": TABLE,
    "data.label": TABLE,
    "data.id": TABLE | {"data.id": "number"},
    "data.title": COLUMNS,
    "data.body": COLUMNS,
    "data.columns": TABLE | {"data.columns": ["context"]},
    "data.cut": {"data.cut": "longest"},
    "data.split": {"data.split": "part"},
    "data.fold_column": {"data.fold_column": "fold"},
    "data.group": {"data.group": "author"},
    "data.other_label": {"data.other_label": "misc"},
    "data.on_empty": {"data.on_empty": "skip"},
    "data.rare_labels": {"data.rare_labels": "drop"},
    "data.label_order": {"data.label_order": ["b", "a"]},
    "data.label_names": {"data.label_names": {"0": "a", "1": "b"}},
    "data.train_file": SEPARATE,
    "data.val_file": SEPARATE,
    "data.test_file": SEPARATE,
    "data.separator": {"data.separator": ";"},
    "data.encoding": {"data.encoding": "cp932"},
    "data.fold": {"data.folds": 5, "data.fold": 1},
    "data.folds": {"data.folds": 5},
    "data.truncation": {"data.truncation": "end"},
    "data.micro_batch_size": {"data.micro_batch_size": 4},
    "data.eval_batch_size": {"data.eval_batch_size": 64},
    "data.limit": {"data.limit": 100},
    "engine.compile": {"engine.compile": True},
    "engine.gradient_checkpointing": {"engine.gradient_checkpointing": True},
    "engine.name": {"engine.name": "reference"},
    "logger.mode": {"logger.mode": "offline"},
    "logger.name": {"logger.name": "none"},
    "logger.tags": {"logger.tags": ["trial"]},
    "loss.class_weights": {"loss.class_weights": {"peachy": 2.0}},
    "loss.gamma": {"loss.name": "focal", "loss.gamma": 3.0},
    "loss.label_smoothing": {"loss.label_smoothing": 0.1},
    "loss.name": {"loss.name": "focal"},
    "lora.full": {"lora.enabled": False, "lora.full": True},
    "lora.lora_dropout": {"lora.lora_dropout": 0.2},
    "lora.target_modules": {"lora.target_modules": "all-linear"},
    "model.add_bos": {"model.add_bos": True},
    "model.architecture": {"model.architecture": {"model_type": "llama"}},
    "model.pooling": {"model.pooling": "first", "lora.target_modules": "all-linear"},
    "model.tokenizer_kind": {"model.tokenizer_kind": "auto"},
    "model.weights": {"model.weights": "random"},
    "optimizer.betas": {"optimizer.betas": [0.9, 0.95]},
    "optimizer.max_grad_norm": {"optimizer.max_grad_norm": 1.0},
    "pruner.alpha": {"pruner.name": "paired", "pruner.alpha": 0.05, "pruner.max_lag": 0.25},
    "pruner.max_lag": {"pruner.max_lag": 0.25},
    "pruner.name": {"pruner.name": "median"},
    "pruner.warmup_fraction": {"pruner.warmup_fraction": 0.5},
    "template.text": {"template.text": "{body}"},
    "trainer.accelerator": {"trainer.accelerator": "cpu"},
    "trainer.early_stopping_patience": {"trainer.early_stopping_patience": 3},
    "trainer.monitor": {"trainer.monitor": "mcc"},
    "trainer.precision": {"trainer.precision": "32-true"},
}


def different_value(key: str, config: Config) -> Mapping[str, Any]:
    """Dotted keys with values that change ``key`` of ``config``, the default configuration, and keep it valid.

    Keys besides ``key`` are in it where it needs them, as ``data.fold`` needs ``data.folds``.
    """
    if key in _SPECIAL:
        return _SPECIAL[key]
    section, _, name = key.rpartition(".")
    value = getattr(getattr(config, section) if section else config, name)
    if isinstance(value, bool):
        return {key: not value}
    if isinstance(value, int | float):
        return {key: value + 1}
    return {key: "other"}


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """``config`` with ``values``, validated."""
    tree = config.model_dump()
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (tree[section] if section else tree)[name] = value
    return Config.model_validate(tree)
