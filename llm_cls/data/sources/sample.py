"""The corpus that is shipped with the package."""

import hashlib
from pathlib import Path

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Corpus, Text
from llm_cls.data.split import reference_split, split_texts
from llm_cls.errors import ArtifactError
from llm_cls.runs.content import read_lines
from llm_cls.runs.schema import FileContent

SAMPLE = Path(__file__).parents[2] / "assets" / "sample" / "sample.jsonl"
_FIX = "Install llm_cls again"


class _Article(FileContent):
    """A line of the file."""

    id: str
    label: str
    title: str
    body: str


def load_sample(config: DataConfig, path: Path = SAMPLE) -> Corpus:
    """The sample corpus, split as the published experiment splits livedoor.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing. {_FIX}")
    texts = [Text(line.id, line.label, line.title, line.body) for line in read_lines(path, _Article, _FIX)]
    labels = tuple(sorted({text.label for text in texts}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Corpus("sample", labels, split_texts(texts, config, reference_split, "sample"), digest, has_titles=True)
