"""The sample's reader, on a file of its own."""

import hashlib
import json
import random
from pathlib import Path

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import SPLITS
from llm_cls.data.sources.sample import load_sample

ROWS = [{"id": f"t{i:02d}", "label": "ba"[i % 2], "title": f"題{i}", "body": f"文{i}\n続き"} for i in range(25)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_reads_and_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", ROWS)
    corpus = load_sample(DataConfig(name="sample", cache_dir=tmp_path), path)
    ids = [row["id"] for row in ROWS]
    random.Random(42).shuffle(ids)
    assert [[t.id for t in corpus.splits[s]] for s in SPLITS] == [ids[:21], ids[21:23], ids[23:]]
    assert (corpus.name, corpus.labels, corpus.has_titles) == ("sample", ("a", "b"), True)
    assert corpus.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = {t.id: {"id": t.id, "label": t.label, "title": t.title, "body": t.body} for t in corpus.splits["train"]}
    assert found == {row["id"]: row for row in ROWS if row["id"] in found}


def test_seed_and_order(tmp_path: Path) -> None:
    path, other = write(tmp_path / "s.jsonl", ROWS), write(tmp_path / "r.jsonl", ROWS[::-1])
    config = DataConfig(name="sample", cache_dir=tmp_path)
    assert load_sample(config, path).splits == load_sample(config, other).splits
    reseeded = config.model_copy(update={"split_seed": 1})
    assert load_sample(config, path).splits != load_sample(reseeded, path).splits
