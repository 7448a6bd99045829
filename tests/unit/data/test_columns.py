"""The columns of a table, for training and for prediction."""

from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig, TemplateConfig
from llm_cls.data.columns import with_columns
from llm_cls.data.inputs import TextColumns
from llm_cls.errors import DataError

PATH = Path("t.csv")


def config(**keys: object) -> DataConfig:
    given = {"name": "table", "cache_dir": "cache", "file": PATH, "label": "label"}
    return DataConfig.model_validate(given | keys)


def template(text: str) -> TemplateConfig:
    return TemplateConfig(name="t", text=text)


def test_inputs_of_every_kind_of_template() -> None:
    rows = [{"id": "a", "q": "Q", "c": None, "n": 1.0}, {"id": "b", "q": "", "c": "", "n": ""}]

    def read(data: DataConfig, text: str) -> tuple[list[tuple[str, ...]], list[str]]:
        return TextColumns(data, template(text), "").read(rows)

    assert read(config(text="q"), "<{body}>") == ([("<", "Q", "", ">")], ["", "q is empty"])
    assert read(config(text="q", on_empty="keep"), "<{body}>")[0] == [("<", "Q", "", ">"), ("<", "", "", ">")]
    assert read(config(text="c"), "{body}") == ([], ["c is missing", "c is empty"])
    assert read(config(text=["q", "n"]), "{body}") == ([("", "Q", "\n", "1", "", "")], ["", "q, n are empty"])
    assert read(config(columns=["q", "c"], cut="q"), "{c}|{q}") == ([("|", "Q", "", "")], ["", "c, q are empty"])


@pytest.mark.parametrize(
    ("keys", "text", "part"),
    [
        ({"text": "x"}, "{body}", "t.csv has no column 'x'. It has 'q', 'c'. Try data.text=COLUMN"),
        ({"text": ["q", "d"]}, "{body}", "has no column 'd'. It has 'q', 'c'. Try data.text=COLUMN"),
        (
            {"columns": ["Q"]},
            "{Q}",
            "t.csv has no column 'Q', which the template names. It has 'q', 'c'. Correct template.text, or the column",
        ),
    ],
)
def test_columns_that_cannot_be_read(keys: dict[str, object], text: str, part: str) -> None:
    with pytest.raises(DataError) as caught:
        TextColumns(config(**keys), template(text), "data.").check({"q": "a", "c": [1]}, PATH)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_the_columns_of_another_table() -> None:
    def found(data: DataConfig, shown: str, **names: str) -> tuple[object, ...]:
        given = dict.fromkeys(("text", "title", "body")) | names
        other = with_columns(data, template(shown), **given)
        return other.text, other.title, other.body, other.id

    news = config(text=None, name="livedoor", label=None, file=None)
    assert found(news, "{title} {body}") == (None, "title", "body", None)
    assert found(news, "{title} {body}", title="t", body="b") == (None, "t", "b", None)
    assert found(news, "{body}", text="b") == (None, None, "b", None)
    assert found(config(text="q", id="i"), "{body}") == ("q", None, None, None)
    assert found(config(text="q"), "{body}", text="x") == ("x", None, None, None)
    assert found(config(text=["p", "h"]), "{body}") == (["p", "h"], None, None, None)
    assert found(config(columns=["p", "h"]), "{p} {h}") == (None, None, None, None)


def test_prediction_needs_no_columns_but_those_of_the_template() -> None:
    """``data.columns`` may have more, so that runs with several templates are on the same data."""
    shown = template("{p}")
    data = with_columns(config(columns=["p", "h"]), shown, text=None, title=None, body=None)
    assert TextColumns(data, shown, "").read([{"p": "A"}]) == ([("", "A", "", "")], [""])
