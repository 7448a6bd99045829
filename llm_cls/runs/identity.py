"""The identity of a run: everything that can change its result, and nothing else.

This is the only definition. A run compares it before it writes into a directory, a sweep uses it to find the runs that
it already has, and the report groups runs by it. Every key of the configuration counts unless it is listed below with
the reason, so that a new key counts from the start.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_cls.config.schema import Config
from llm_cls.files import sha256_json
from llm_cls.runs.content import flatten

# Keys and sections that change no result.
NO_EFFECT: Mapping[str, str] = {
    "logger": "decides where curves go",
    "sweep": "decides how the runs of a sweep are organised",
    "trainer.accelerator": "the precision that it implies counts",
    "trainer.devices": "the texts of an optimizer step are the same on any number of devices",
    "trainer.num_nodes": "the texts of an optimizer step are the same on any number of machines",
    "trainer.progress_bar": "changes the display only",
    "trainer.timeout_seconds": "decides when a run ends that cannot continue",
    "data.cache_dir": "a folder for downloads and tokens",
    "data.download_timeout_seconds": "a limit for the download, whose content counts",
    "data.download_stall_seconds": "a limit for the download, whose content counts",
    "data.micro_batch_size": "splits an optimizer step to save memory; the gradient is the same sum",
    "data.eval_batch_size": "groups texts for scoring; each text is scored on its own",
    "engine.gradient_checkpointing": "recomputes the same activations to save memory",
    "model.trust_remote_code": "a permission; the code itself is part of the revision",
    "data.keep_texts": "decides what the predictions show",
    "template.name": "a label; template.text counts",
}

# Keys whose value only names something. What they resolve to counts instead: a fact with this name.
RESOLVED: Mapping[str, str] = {
    "data.name": "data.digest",
    "data.url": "data.digest",
    "data.archive": "data.digest",
    "data.file": "data.digest",
    "data.train_file": "data.digest",
    "data.val_file": "data.digest",
    "data.test_file": "data.digest",
    "data.separator": "data.digest",
    "data.quoting": "data.digest",
    "data.header": "data.digest",
    "data.encoding": "data.digest",
    "data.field": "data.digest",
    "data.sheet": "data.digest",
    "data.dataset": "data.digest",
    "data.subset": "data.digest",
    "data.revision": "data.digest",
    "data.train_split": "data.digest",
    "data.val_split": "data.digest",
    "data.test_split": "data.digest",
    "data.text": "data.digest",
    "data.title": "data.digest",
    "data.body": "data.digest",
    "data.columns": "data.digest",
    "data.split": "data.digest",
    "data.fold_column": "data.digest",
    "data.group": "data.digest",
    "data.on_empty": "data.digest",
    "data.normalize_labels": "data.digest",
    "data.rare_labels": "data.digest",
    "data.other_label": "data.digest",
    "data.label_names": "data.digest",
    "data.label": "data.digest",
    "data.id": "data.digest",
    "data.limit": "data.split",
    "model.name": "model.name",
    "model.revision": "model.revision",
    "model.tokenizer": "model.tokenizer",
    "model.tokenizer_kind": "model.tokenizer",
    "model.add_bos": "model.tokenizer",
    "trainer.precision": "trainer.precision",
}

# Keys that are younger than finished runs, with the value that computes what was computed before the key existed: at
# it, a run keeps its identity.
NEUTRAL: Mapping[str, Any] = {
    "data.cut": None,
    "data.label_order": None,
    "loss.name": "cross_entropy",
    "loss.class_weights": None,
    "loss.label_smoothing": 0.0,
    "loss.gamma": None,
    "trainer.monitor": "f1",
    "pruner.alpha": None,
}

# Keys whose value is a mapping: one value, whatever keys it has.
WHOLE = ("model.architecture", "data.label_names", "loss.class_weights")

TokenizerFacts = tuple[str, int | list[int] | None, int]
FACTS = tuple(dict.fromkeys(RESOLVED.values()))


@dataclass(frozen=True)
class Facts:
    """The values that the names in a configuration stand for.

    Attributes:
        digest: Of the corpus: changes with any text, label or id.
        split: Number of texts of each split.
        model_name: The hub id; None where the revision already identifies the weights by their content.
        revision: The hub's commit, or a digest of local weights.
        tokenizer: Fingerprint of the vocabulary, and the ids that start and end every text.
        precision: Lightning's name of the precision; never "auto".
    """

    digest: str
    split: Mapping[str, int]
    model_name: str | None
    revision: str
    tokenizer: TokenizerFacts
    precision: str

    def as_keys(self) -> dict[str, Any]:
        """The facts by the names in ``FACTS``."""
        values = (
            self.digest, dict(self.split), self.model_name, self.revision, list(self.tokenizer), self.precision
        )  # fmt: skip
        return dict(zip(FACTS, values, strict=True))


def changes_result(key: str) -> bool:
    """Whether a dotted key of the configuration can change the result of a run."""
    return key not in NO_EFFECT and key.partition(".")[0] not in NO_EFFECT


def settings(config: Config) -> dict[str, Any]:
    """All keys of ``config`` that can change the result, dotted; None for a key that has no effect here."""
    values = dict(flatten(config.model_dump(mode="json"), whole=WHOLE))
    return {key: value for key, value in blank_unused(values).items() if changes_result(key)}


def identity(config: Config, facts: Facts | Mapping[str, Any]) -> dict[str, Any]:
    """What identifies the run of ``config``, as JSON values by key."""
    resolved = facts.as_keys() if isinstance(facts, Facts) else {key: facts[key] for key in FACTS}
    chosen = {key: value for key, value in settings(config).items() if key not in RESOLVED}
    parts = {key: value for key, value in chosen.items() if key not in NEUTRAL or value != NEUTRAL[key]} | resolved
    result: dict[str, Any] = json.loads(json.dumps(parts, sort_keys=True))
    return result


def run_id(parts: Mapping[str, Any]) -> str:
    """A short hash of an ``identity``."""
    return sha256_json(parts)[:16]


def text_id(parts: Mapping[str, Any]) -> str:
    """A hash of the texts that a run is trained and scored on; that of schema 1, so that a sweep keeps its study."""
    folds = parts["data.folds"]
    fold = None if folds is None else [parts["data.fold"], folds]
    kept = {key: parts[key] for key in ("data.digest", "data.split", "data.split_seed")}
    return sha256_json(kept | {"data.fold": fold})


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The keys in which two identities differ, with both values, each in one line."""
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return [f"{key}: {_shown(before.get(key))} there, {_shown(after.get(key))} here" for key in keys]


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def blank_unused(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys with their values, None for each key that has no effect because of the value of another key."""
    unused = []
    if values.get("model.weights") != "random":
        unused.append("model.architecture")
    if values.get("lora.enabled") is False:
        unused.append("lora.")
    if values.get("engine.name") == "reference":
        unused.append("engine.compile")
    if values.get("pruner.name") == "none":
        unused.append("pruner.")
    if values.get("loss.name") == "cross_entropy":
        unused.append("loss.gamma")
    always = ("lora.enabled", "lora.full", "pruner.name", "pruner.stop_collapsed")
    return {
        key: None if key.startswith(tuple(unused)) and key not in always else value for key, value in values.items()
    }
