"""From ``llm_cls.train`` to exports that certify themselves: tokenizers, templates, adapters, numbers of labels."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from tests.unit.data.test_tokenizer import spiece as spiece

from .conftest import Command

pytestmark = pytest.mark.slow

BODIES = ("今日は東京で遊ぶ。", "明日は大阪で学ぶ。", "彼女は学校で会う。", "昨日の映画と俳優の話題。", "端末の料金😀")


def table(path: Path, n_labels: int) -> int:
    """Texts of each label, at least twelve, the longer ones of which are cut."""
    draw = random.Random(0)
    rows = [
        {"t": f"題{draw.randrange(100)}", "b": "".join(draw.choices(BODIES, k=draw.randint(1, 9))), "l": f"語 {i:03d}"}
        for i in range(n_labels)
        for _ in range(max(12, 120 // n_labels))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


@pytest.mark.parametrize(
    ("tokenizer", "template", "adapter", "n_labels"),
    [
        ("hub", 0, "lora.use_rslora=true", 2),
        ("sentencepiece", 1, "lora.use_dora=true", 150),
        ("sentencepiece", 2, "lora.r=4", 2),
        ("hub", 1, "lora.use_dora=true", 9),
        ("sentencepiece", 0, "lora.use_rslora=true", 9),
        ("hub", 2, "lora.r=4", 150),
    ],
)
def test_what_is_trained_can_be_exported(
    tokenizer: str, template: int, adapter: str, n_labels: int, spiece: Path, command: Command, tmp_path: Path
) -> None:
    n_texts = table(tmp_path / "t.jsonl", n_labels)
    model = ["model=ja-mini"]
    if tokenizer == "sentencepiece":
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        described = GPTNeoXConfig(vocab_size=600, max_position_embeddings=64, initializer_range=0.2, **sizes)
        GPTNeoXForCausalLM(described).save_pretrained(tmp_path / "base")
        for name in ("spiece.model", "tokenizer_config.json"):
            shutil.copy(spiece / name, tmp_path / "base")
        model = ["model=hf", "model.name=base"]
    data = ["data=table", "data.file=t.jsonl", "data.title=t", "data.body=b", "data.label=l", f"template='{template}'"]
    sizes_of_run = ["data.max_length=40", "data.batch_size=16", "trainer=cpu", "trainer.max_epochs=1"]
    line = [*model, *data, *sizes_of_run, "lora.target_modules=all-linear", adapter, "optimizer.lr=5e-3"]
    done = command("train", *line, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for format in ("merged", "peft"):
        done = command("export", "run=run", f"output={format}", f"format={format}", "texts=60", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        print(done.stdout)
        parity = json.loads((tmp_path / format / "parity.json").read_text())
        assert parity["labels"] == [f"語 {i:03d}" for i in range(n_labels)] and parity["label_order_equal"]
        assert parity["ids"]["equal"] == parity["ids"]["texts"] == n_texts and parity["ids"]["cut"] > 0
        certified = {found["input"] for found in parity["comparisons"] if found["certified"]}
        assert certified == {"ids", "strings"}
