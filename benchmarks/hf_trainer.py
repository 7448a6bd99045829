"""The Hugging Face Trainer with PEFT on the texts of a configuration of llm_cls: s/step and memory.

    python benchmarks/hf_trainer.py model=qwen3-0.6b model.weights=random data=livedoor steps=30

Own arguments: ``steps`` (30), ``warmup`` (8, not measured), ``grouped`` (true: texts of similar length share a batch,
the Trainer's fastest sampler), ``recompute`` (false: gradient checkpointing, for what does not fit otherwise). All
others are those of ``python -m llm_cls.benchmark``, which measures llm_cls on the same texts, tokens, LoRA and batch.
"""

import itertools
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from llm_cls.config.compose import accept_plain_values, compose_tree
from llm_cls.config.schema import Config, parse_config
from llm_cls.data.datamodule import TextDataModule
from llm_cls.hub import source_name
from llm_cls.model.decoder import load_architecture
from llm_cls.training.prepare import Inputs, prepare
from llm_cls.training.run import data_module
from llm_cls.training.shared import Shared

OWN = {"steps": "30", "warmup": "8", "grouped": "true", "recompute": "false"}


class Texts(torch.utils.data.Dataset[dict[str, Any]]):
    """The training texts as the Trainer takes them."""

    def __init__(self, data: TextDataModule) -> None:
        """Takes the texts of llm_cls, already templated, cut and tokenized."""
        self.tokens, self.labels = data.tokens["train"], data.labels("train")

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Ids, label and length; an id equal to the padding id would move the classifier's last token."""
        ids = np.asarray(self.tokens[i]).astype(np.int64)
        return {"input_ids": np.where(ids == 0, 1, ids), "labels": int(self.labels[i]), "length": len(ids)}


def collate(texts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Padded to the longest text of the batch."""
    longest = max(len(text["input_ids"]) for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text["input_ids"])] = torch.from_numpy(text["input_ids"])
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": torch.tensor([text["labels"] for text in texts]),
    }


class Clock(TrainerCallback):
    """The times at which steps end, on the device's clock."""

    def __init__(self) -> None:
        """Starts without a step."""
        self.marks: list[Any] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Marks the end of a step without waiting for the device."""
        if not torch.cuda.is_available():
            self.marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def seconds(self, warmup: int) -> list[float]:
        """Duration of the steps after the first ``warmup``."""
        marks = self.marks[warmup - 1 :]
        if not torch.cuda.is_available():
            return [end - start for start, end in itertools.pairwise(marks)]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in itertools.pairwise(marks)]


def build(inputs: Inputs, n_labels: int) -> Any:
    """The network with random or pretrained weights in the dtype of the device, and its adapter."""
    config: Config = inputs.config
    architecture = load_architecture(config.model)
    architecture.num_labels, architecture.pad_token_id = n_labels, 0
    dtype = inputs.hardware.frozen_dtype
    auto: Any = AutoModelForSequenceClassification
    if config.model.weights == "random":
        torch.set_default_dtype(dtype)
        with inputs.hardware.device:
            network = auto.from_config(architecture, attn_implementation="sdpa")
        torch.set_default_dtype(torch.float32)
    else:
        network = auto.from_pretrained(
            source_name(config.model.name), config=architecture, dtype=dtype, attn_implementation="sdpa"
        )
    lora = config.lora
    adapter = LoraConfig(
        task_type="SEQ_CLS", r=lora.r, lora_alpha=lora.lora_alpha, lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
    )  # fmt: skip
    return get_peft_model(network, adapter)


def main() -> None:
    """Measures and prints one line."""
    own = OWN | dict(part.split("=", 1) for part in sys.argv[1:] if part.split("=")[0] in OWN)
    accept_plain_values()
    config = parse_config(compose_tree([part for part in sys.argv[1:] if part.split("=")[0] not in OWN]))
    inputs = prepare(config, Shared())
    data = data_module(inputs, Shared())
    network, clock, warmup = build(inputs, len(inputs.corpus.labels)), Clock(), int(own["warmup"])
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir="outputs/benchmark/hf_trainer", per_device_train_batch_size=config.data.batch_size,
        max_steps=warmup + int(own["steps"]), bf16=cuda, use_cpu=not cuda, learning_rate=config.optimizer.lr,
        gradient_checkpointing=own["recompute"] == "true", gradient_checkpointing_kwargs={"use_reentrant": False},
        train_sampling_strategy="group_by_length" if own["grouped"] == "true" else "random",
        length_column_name="length", remove_unused_columns=False, dataloader_num_workers=2 if cuda else 0,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(model=network, args=arguments, train_dataset=Texts(data), data_collator=collate, callbacks=[clock]).train()
    seconds = clock.seconds(warmup)
    mean, steps = statistics.fmean(seconds), len(data.tokens["train"]) / config.data.batch_size
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if cuda else "-"
    print(
        f"HF Trainer + PEFT, batch {config.data.batch_size}, grouped {own['grouped']}, recompute {own['recompute']}: "
        f"{mean:.4f} s/step (median {statistics.median(seconds):.4f}), {mean * steps:.1f} s/epoch, {memory}"
    )


if __name__ == "__main__":
    main()
