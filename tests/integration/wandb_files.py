"""Reads the offline W&B run of a run directory."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_wandb(run: Path) -> Iterator[Any]:
    """The records of its W&B run."""
    from wandb.proto import wandb_internal_pb2

    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    for data in _split_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


def read_table(run: Path, name: str) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table, found as the run's history points to it."""
    (path,) = {
        json.loads(item.value_json)
        for record in read_wandb(run)
        for item in record.history.item
        if item_key(item) == f"{name}/path"
    }
    (folder,) = (run / "wandb").glob("offline-run-*/files")
    table = json.loads((folder / path).read_text(encoding="utf-8"))
    return table["columns"], table["data"]


def item_key(item: Any) -> str:
    """The name of an item of a history or a summary."""
    return item.key or "/".join(item.nested_key)


def _split_records(content: bytes) -> Iterator[bytes]:
    """The records of a W&B run file: LevelDB's log format behind a header of seven bytes."""
    block, position, record = 32768, 7, b""
    while position + 7 <= len(content):
        if block - position % block < 7:
            position += block - position % block  # the rest of a block that no header fits into
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
