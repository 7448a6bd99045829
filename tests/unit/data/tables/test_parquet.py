"""Parquet: classes of the ``datasets`` library by their names."""

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow.parquet import write_table

from llm_cls.data.rows import column, iter_rows, read_rows
from llm_cls.errors import DataError


def write(path: Path, labels: list[int | None], feature: object) -> Path:
    table = pyarrow.table({"text": [f"t{i}" for i in range(len(labels))], "label": pyarrow.array(labels)})
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    write_table(table.replace_schema_metadata(metadata), path, row_group_size=3)
    return path


CLASSES = {"names": ["いいえ", "はい"], "_type": "ClassLabel"}


def test_classes_have_their_names(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", [0, 1, 1, 0, None, -1], CLASSES)
    rows = read_rows(path)
    assert [row["label"] for row in rows] == ["いいえ", "はい", "はい", "いいえ", None, None]
    assert [row for chunk in iter_rows(path, chunk_rows=4) for row in chunk] == rows


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t.parquet could not be read as parquet: row 3 of column 'label' has class 2"):
        read_rows(write(tmp_path / "t.parquet", [0, 1, 2], CLASSES))


@pytest.mark.parametrize("feature", [{"dtype": "int64", "_type": "Value"}, {"_type": "ClassLabel"}, "x", [1]])
def test_other_columns_keep_their_values(tmp_path: Path, feature: object) -> None:
    rows = read_rows(write(tmp_path / "t.parquet", [0, 1, 2], feature))
    assert column(rows, "label", "data.label", tmp_path) == ["0", "1", "2"]


def test_files_of_the_datasets_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"label": datasets.ClassLabel(names=["b", "a"])})
    written = datasets.Dataset.from_list([{"label": 1}, {"label": 0}], features=features)
    written.to_parquet(tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet") == [{"label": "a"}, {"label": "b"}]
