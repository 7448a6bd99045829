"""The corpus that is shipped with the package."""

import hashlib
from pathlib import Path

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Corpus, Text
from llm_cls.data.split import reference_split, split_texts
from llm_cls.files import read_jsonl

SAMPLE = Path(__file__).parents[2] / "assets" / "sample" / "sample.jsonl"


def load_sample(config: DataConfig, path: Path = SAMPLE) -> Corpus:
    """The sample corpus, split as the published experiment splits livedoor."""
    texts = [Text(row["id"], row["label"], row["title"], row["body"]) for row in read_jsonl(path)]
    labels = tuple(sorted({text.label for text in texts}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Corpus("sample", labels, split_texts(texts, config, reference_split, "sample"), digest, has_titles=True)
