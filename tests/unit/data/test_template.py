"""Templates: which parts of a text they show, and which of them may be cut."""

import pytest

from llm_cls.config.schema import DataConfig, TemplateConfig
from llm_cls.data.corpus import Text
from llm_cls.data.template import Pieces, layout, render


def pieces(template: str, shown: Text, **data: object) -> Pieces:
    config = DataConfig.model_validate({"name": "new", "cache_dir": "cache", **data})
    return render(layout(TemplateConfig(name="t", text=template), config), shown.values)


ARTICLE = Text("1", "", "題", "文")
PAIR = Text("1", "", "", "", (("premise", "A {x}"), ("hypothesis", "B")))


def test_the_body_is_what_is_cut() -> None:
    assert pieces("[{title}] {body} <{title}>", ARTICLE) == ("[題] ", "文", " <題", ">")
    assert pieces("{{{body}}}", Text("1", "", "", "a{b}")) == ("{", "a{b}", "", "}"), "braces in a text are kept"
    assert pieces("{title}", ARTICLE) == ("", "題", "", "")


@pytest.mark.parametrize(
    ("template", "keys", "expected"),
    [
        ("{premise}\n{hypothesis}.", {}, ("", "A {x}", "\n", "B", "", ".")),
        ("{premise}\n{hypothesis}.", {"cut": "longest"}, ("", "A {x}", "\n", "B", "", ".")),
        ("{premise}\n{hypothesis}.", {"cut": "premise"}, ("", "A {x}", "\nB", ".")),
        ("{premise}\n{hypothesis}.", {"cut": "hypothesis"}, ("A {x}\n", "B", "", ".")),
        ("<{body}>", {"text": ["premise", "hypothesis"]}, ("<", "A {x}", "\n", "B", "", ">")),
        ("<{body}>", {"text": ["hypothesis", "premise"], "cut": "premise"}, ("<B\n", "A {x}", "", ">")),
        ("{premise} {body}", {"text": ["hypothesis"], "cut": "longest"}, ("", "A {x}", " ", "文", "", "")),
    ],
)
def test_columns(template: str, keys: dict[str, object], expected: Pieces) -> None:
    text = Text("1", "", "", "文", PAIR.columns)
    assert pieces(template, text, **keys) == expected
