"""``python -m tests.integration.loads ARGUMENTS``: ``llm_cls.train`` that counts what it loads, in ``loads.json``."""

import collections
import functools
import json
from pathlib import Path
from typing import Any

from llm_cls import train
from llm_cls.data import tokens
from llm_cls.training import shared

COUNTED = [(shared, "load_decoder"), (shared, "load_tokenizer"), (shared, "read_corpus"), (tokens, "tokenize")]


def main() -> None:
    counts: collections.Counter[str] = collections.Counter()

    def counted(function: Any, name: str) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    for module, name in COUNTED:
        setattr(module, name, counted(getattr(module, name), name))
    try:
        train.command()
    finally:
        Path("loads.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main()
