"""Data sets on the Hugging Face hub, or in local folders of the same layout.

The ``datasets`` library says which files belong to which split of which subset. They are read as other tables are:
its own readers infer the types of CSV and JSON, so that a label 007 would become 7, and one 2020-01-01 a time.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llm_cls.config.messages import echo, nearest
from llm_cls.config.schema import DataConfig
from llm_cls.data.build import ALL
from llm_cls.data.corpus import Corpus
from llm_cls.data.labelled import corpus_of_rows
from llm_cls.data.rows import Row, TableFormat, is_table
from llm_cls.data.tables.files import read_files
from llm_cls.data.tables.parquet import name_of_class
from llm_cls.errors import ConfigError, DataError, first_line
from llm_cls.hub import hub_is_reachable
from llm_cls.redaction import redact

_USUAL = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
_HUB_FILE = re.compile(r"hf://datasets/(?P<name>[^@]+)@(?P<revision>[^/]+)/(?P<file>.+)")
_KINDS = ("csv", "json", "parquet")
# Options of a card that choose rows or columns.
_UNKNOWN = (
    "header", "names", "column_names", "index_col", "usecols", "skiprows", "nrows", "skipfooter", "comment", "quoting",
    "quotechar", "escapechar", "lineterminator", "dialect", "columns", "filters",
)  # fmt: skip


def load_hub(config: DataConfig) -> Corpus:
    """The texts of a data set with its own splits; a data set of one split is split.

    Raises:
        ConfigError: The data set, its subset or a split does not exist, is private or cannot be reached, or the
            ``datasets`` library is missing.
        DataError: Its files are not tables, or as ``load_table``.
    """
    assert config.dataset is not None
    folder = _local_folder(config)
    builder = _builder(config, str(folder))
    files = {str(split): [Path(file) for file in paths] for split, paths in builder.config.data_files.items()}
    if other := next((file for paths in files.values() for file in paths if not is_table(file)), None):
        raise DataError(f"{config.dataset}: {other.name} is no table that can be read. Convert it to Parquet")
    names = choose_splits(config, list(files))
    format = _format(builder, config.dataset)
    tables = {}
    for split, name in names.items():
        rows = read_files(files[name], format, "data.dataset")
        _name_classes(rows, builder.info.features or {})
        tables[split] = rows
    return corpus_of_rows(config, tables, dict.fromkeys(tables, Path(config.dataset)))


def choose_splits(config: DataConfig, known: list[str]) -> dict[str, str]:
    """The splits of the data set that are train, val and test; train alone is "", which is split further.

    Raises:
        ConfigError: A split is named that does not exist, none is train, or one that is given would be split again.
    """
    given = {"train": config.train_split, "val": config.val_split, "test": config.test_split}
    chosen = {}
    for split, name in given.items():
        if name is not None and name not in known:
            raise ConfigError(f"data.{split}_split={name}: {config.dataset} has no such split. {nearest(name, known)}")
        found = name or next((usual for usual in _USUAL[split] if usual in known), None)
        if found is None and split == "train" and len(known) == 1:
            found = known[0]
        if found is not None:
            chosen[split] = found
    if "train" not in chosen:
        have = ", ".join(map(repr, known))
        raise ConfigError(f"{config.dataset} has no split 'train', only {have}. Try data.train_split=NAME")
    if len(chosen) == 1:
        return {ALL: chosen["train"]}
    ways = {"data.folds": config.folds, "data.split": config.split, "data.fold_column": config.fold_column}
    if way := next((key for key, value in ways.items() if value is not None), None):
        have = ", ".join(chosen.values())
        raise ConfigError(f"{way} is for a data set of one split, but {config.dataset} has {have}. Leave it out")
    return chosen


def _local_folder(config: DataConfig) -> Path:
    """The folder with the files of the data set, which is in the cache of the hub unless it is the user's."""
    name = config.dataset or ""
    if os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        if config.revision is not None:
            raise ConfigError(f"data.revision={config.revision} is for data sets on the hub, but {name} is a folder")
        return Path(name)
    with _hub_errors(config):
        if not hub_is_reachable():
            return Path(snapshot_download(name, repo_type="dataset", revision=config.revision, local_files_only=True))
        data_files = _builder(config, name).config.data_files
        wanted = []
        for file in (file for split in data_files.values() for file in split):
            if (match := _HUB_FILE.fullmatch(str(file))) is None:
                raise DataError(f"{name}: {redact(str(file))} is not on the hub. Download it, and try data=table")
            wanted.append(match["file"])
        # The first one records which commit the revision is, so that it is found without a network.
        first = Path(hf_hub_download(name, wanted[0], repo_type="dataset", revision=config.revision))
        folder = first.parents[len(Path(wanted[0]).parents) - 1]
        for file in wanted[1:]:
            hf_hub_download(name, file, repo_type="dataset", revision=folder.name)
        for file in ("README.md", ".huggingface.yaml", "dataset_infos.json"):  # they describe the subsets and the types
            try:
                hf_hub_download(name, file, repo_type="dataset", revision=folder.name)
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    return folder


def _builder(config: DataConfig, path: str) -> Any:
    """What the ``datasets`` library knows about a data set before it reads it."""
    try:
        import datasets
    except ImportError:
        raise ConfigError("data=hub needs datasets. Install it with: pip install 'llm_cls[hub]'") from None
    datasets.disable_progress_bars()
    revision = None if Path(path).is_dir() else config.revision
    try:
        builder = datasets.load_dataset_builder(path, config.subset, revision=revision)
    except (datasets.exceptions.DatasetNotFoundError, HFValidationError, HfHubHTTPError, ConnectionError):
        raise  # see _hub_errors
    except (ValueError, FileNotFoundError, TypeError, RuntimeError) as error:
        cause = " ".join(str(error).split())
        fix = "Try data.subset=NAME" if "config" in cause.lower() else "Check data.dataset"
        raise ConfigError(f"{config.dataset}: {cause.rstrip('.')}. {fix}") from None
    subsets = [] if config.subset else list(builder.builder_configs)
    if len(subsets) > 1 and "default" not in subsets:  # the library takes the first one
        listed = ", ".join(map(repr, subsets[:20]))
        raise ConfigError(f"{config.dataset} has {len(subsets)} subsets: {listed}. Try data.subset={subsets[0]}")
    kind = builder.__module__.rpartition(".")[2]
    if kind not in _KINDS:
        raise DataError(f"{config.dataset}: files of the kind {kind!r} are not read. Convert them to Parquet")
    return builder


def _format(builder: Any, name: str) -> TableFormat:
    """The format that the card of the data set describes.

    Raises:
        DataError: It sets something that would read other rows or columns.
    """
    given = builder.config
    usual = type(given)()
    if other := [key for key in _UNKNOWN if getattr(given, key, None) != getattr(usual, key, None)]:
        raise DataError(f"{name}: its card sets {other[0]}, which is not supported. Download it, and try data=table")
    separator = getattr(given, "delimiter", None) or getattr(given, "sep", None)
    return TableFormat(
        separator=separator if separator and len(separator) == 1 else None,
        encoding=getattr(given, "encoding", None) or "utf-8",
        field=getattr(given, "field", None),
    )


def _name_classes(rows: list[Row], features: Mapping[str, Any]) -> None:
    """Replaces classes by the names that the card of the data set declares."""
    for column, feature in features.items():
        names = getattr(feature, "names", None)
        if not isinstance(names, list) or column not in rows[0]:
            continue
        for number, row in enumerate(rows, 1):
            value = row[column]
            if isinstance(value, str) and value not in names and re.fullmatch(r"-?\d+", value):
                value = int(value)
            try:
                row[column] = name_of_class(value, names, column, number)
            except ValueError as error:
                raise DataError(f"{getattr(row, 'file', 'the data set')}: {error}. Correct the file") from None


@contextmanager
def _hub_errors(config: DataConfig) -> Iterator[None]:
    """Turns the errors of the hub into one line.

    Raises:
        ConfigError: The data set is unknown, private or not cached.
    """
    name = config.dataset
    try:
        yield
    except HFValidationError:
        raise ConfigError(f"data.dataset={echo(name or '')} is no folder and no hub id. Check the path") from None
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ConfigError(_refused(config, error)) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        causes = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError)
        if type(error).__name__ == "DatasetNotFoundError" or isinstance(error.__cause__, causes):
            raise ConfigError(_refused(config, error.__cause__ or error)) from None
        reason = "" if isinstance(error, LocalEntryNotFoundError) else f": {first_line(error).rstrip('.')}"
        raise ConfigError(
            f"data.dataset={name} is not in the local cache and could not be downloaded from the hub{reason}. Run it "
            "once where there is a network (HF_HOME is the folder of the cache), or give a folder: data.dataset=FOLDER"
        ) from None


def _refused(config: DataConfig, error: BaseException) -> str:
    if isinstance(error, RevisionNotFoundError) or "evision" in str(error):
        return f"data.revision={config.revision}: {config.dataset} has no such revision. Check it"
    if isinstance(error, GatedRepoError) or "is a gated" in str(error):
        return f"data.dataset={config.dataset} asks for its conditions to be accepted. Accept them on its page, and " \
            "run: hf auth login"  # fmt: skip
    return f"data.dataset: the hub has no data set {config.dataset!r}, or it is private. Check the id, or run: " \
        "hf auth login"  # fmt: skip
