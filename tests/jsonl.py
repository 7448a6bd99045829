"""Reads the JSON lines that commands write, without the schema by which llm_cls itself reads them."""

import json
from pathlib import Path
from typing import Any


def read_jsonl(path: Path) -> list[Any]:
    """All values of a JSON-lines file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
