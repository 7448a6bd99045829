"""Templates."""

from llm_cls.data.template import render


def test_render_splits_after_the_body() -> None:
    assert render("[{title}] {body} <{title}>", "題", "文") == ("[題] 文", " <題>")
    assert render("{{{body}}}", "", "a{b}") == ("{a{b}", "}"), "braces in a text are kept"
