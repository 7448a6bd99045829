"""The registry of corpora.

To add a corpus, see docs/data.md.

The functions are named by strings, so that a run imports the modules of its own corpus only.
"""

import pkgutil
from collections.abc import Callable

from llm_cls.config.messages import nearest
from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Corpus
from llm_cls.errors import ConfigError

SOURCES = {
    "hub": "llm_cls.data.sources.hub:load_hub",
    "livedoor": "llm_cls.data.sources.livedoor:load_livedoor",
    "sample": "llm_cls.data.sources.sample:load_sample",
    "table": "llm_cls.data.sources.table:load_table",
}


def find_source(name: str) -> Callable[[DataConfig], Corpus]:
    """The function that loads the corpus ``name``, the value of ``data.name``.

    Raises:
        ConfigError: There is no such corpus.
    """
    if name not in SOURCES:
        raise ConfigError(f"data.name={name} is not a corpus. {nearest(name, list(SOURCES))}")
    loader: Callable[[DataConfig], Corpus] = pkgutil.resolve_name(SOURCES[name])
    return loader
