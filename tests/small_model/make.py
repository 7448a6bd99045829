"""``python -m tests.small_model.make``: makes the small model, whose files are kept beside this module.

A decoder of two layers whose step takes milliseconds, with some pieces of the tokenizer of ja-mini: what a run costs
besides is then what a test waits for. Its weights are random, and large enough for adapters to tell texts apart.
"""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, GPTNeoXModel

from llm_cls.hub import SHIPPED
from tests.integration.conftest import WORDS

FOLDER = Path(__file__).parent
PIECES = 600  # the special tokens, the bytes and the most frequent pieces; besides them the words of the tests' corpus
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def main() -> None:
    """Writes the files."""
    source = SHIPPED["ja-mini"]
    (FOLDER / "tokenizer_config.json").write_text((source / "tokenizer_config.json").read_text())
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    pieces, words = tokenizer["model"]["vocab"], " ".join(WORDS.values()).split()
    pieces[PIECES:] = [piece for piece in pieces[PIECES:] if piece[0] in words]
    (FOLDER / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    config = AutoConfig.from_pretrained(source)
    config.update({**SIZES, "vocab_size": len(pieces), "initializer_range": 0.05})
    torch.manual_seed(0)
    model = GPTNeoXModel(config)
    torch.nn.init.constant_(model.final_layer_norm.weight, 4.0)
    model.to(torch.bfloat16).save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
