"""The header and the marks of a model card."""

from pathlib import Path

import pytest

from llm_cls.exporting.card import base_license, base_name, cell


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# x\n", "apache-2.0"),
        ("# x\n---\nlicense: mit\n---\n", None),
        ("---\nlicense: [a]\n---\n", None),
        ("---\n: [\n---\n", None),
        ("", None),
    ],
)
def test_the_licence_of_the_pretrained_model_is_taken_over(text: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert base_license(str(tmp_path), None) == expected


def test_no_path_of_this_machine_is_named(tmp_path: Path) -> None:
    assert base_name(str(tmp_path)) == tmp_path.name and base_name("org/name") == "org/name"


def test_labels_are_text() -> None:
    assert cell("a|b\n*c* <b>`d`[e](f)") == "a\\|b \\*c\\* \\<b\\>\\`d\\`\\[e\\](f)"
