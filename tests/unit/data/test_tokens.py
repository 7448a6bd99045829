"""Token ids: truncation, EOS, and the cache."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_cls.data.datamodule import _warn_of_characters
from llm_cls.data.template import Pieces
from llm_cls.data.tokens import check_ids, tokenize, tokenize_cached, tokens_per_character
from llm_cls.errors import ConfigError

EOS = 1


class Letters:
    """A tokenizer whose ids are the code points of the letters."""

    eos_id = EOS

    def __init__(self, prefix: tuple[int, ...] = (), fingerprint: str = "letters") -> None:
        self.prefix, self.fingerprint, self.calls = prefix, fingerprint, 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        self.calls += 1
        return [[ord(letter) for letter in text] for text in texts]

    def piece(self, token: int) -> str:
        return chr(token)

    def save(self, directory: Path) -> None: ...


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_a_text_that_fits_gets_one_eos() -> None:
    tokens = tokenize([("", "ab", "", "c"), ("", "", "", "")], Letters(), 8, "body")
    assert tokens[0].tolist() == [*ids("abc"), EOS] and tokens[1].tolist() == [EOS]
    assert tokens.lengths.tolist() == [4, 1]


@pytest.mark.parametrize("length", [5, 6, 7, 8])
def test_cutting_the_body_keeps_tail_and_eos(length: int) -> None:
    tokens = tokenize([("", "abcdef", "", "xy")], Letters(), length, "body")
    assert tokens[0].tolist() == [*ids("abcdef"[: length - 3]), *ids("xy"), EOS]


def test_cutting_the_end_is_the_published_behaviour() -> None:
    tokens = tokenize([("", "abcdef", "", "xy"), ("", "ab", "", "")], Letters(), 5, "end")
    assert tokens[0].tolist() == ids("abcde"), "tail and EOS are lost"
    assert tokens[1].tolist() == [*ids("ab"), EOS]


@settings(max_examples=200, deadline=None)
@given(n=st.tuples(st.integers(0, 30), st.integers(0, 30)), room=st.integers(1, 40))
def test_the_longer_of_a_pair_is_cut_first_as_by_the_tokenizers_of_hugging_face(n: tuple[int, int], room: int) -> None:
    oracle = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": ord("a"), "b": ord("b")}, unk_token="a"))
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    oracle.enable_truncation(room, strategy="longest_first")
    found = tokenize([("", "a" * n[0], "", "b" * n[1], "", "")], Letters(), room + 1, "body")
    assert found[0].tolist() == [*oracle.encode("a" * n[0], "b" * n[1]).ids, EOS]


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=4),
    tail=st.integers(0, 5),
    room=st.integers(6, 80),
)
def test_what_is_cut_is_exact(parts: list[tuple[int, int]], tail: int, room: int) -> None:
    """Against the rule word by word: while there are too many tokens, the longest value loses its last one."""
    pieces = [text for i, (before, n) in enumerate(parts) for text in ("-" * before, "abcd"[i] * n)]
    fixed = sum(before for before, _ in parts) + tail
    found = tokenize([(*pieces, "", "+" * tail)], Letters(), room + 1, "body")[0].tolist()
    assert len(found) == min(room, fixed + sum(n for _, n in parts)) + 1
    assert found[len(found) - tail - 1 :] == [*ids("+" * tail), EOS], "the tail and the EOS are kept"
    if fixed <= room:
        left = [n for _, n in parts]
        while fixed + sum(left) > room:
            left[max(range(len(left)), key=lambda i: (left[i], -parts[i][1], -i))] -= 1
        expected = "".join(
            "-" * before + "abcd"[i] * n for i, ((before, _), n) in enumerate(zip(parts, left, strict=True))
        )
        assert found == [*ids(expected + "+" * tail), EOS]


@pytest.mark.parametrize(
    ("room", "expected"), [(9, "aabbbbxy"), (7, "bbbbxy"), (5, "bbxy"), (4, "bxy")]
)  # fmt: skip
def test_a_column_that_is_not_to_be_cut_is_cut_where_it_is_too_long_itself(room: int, expected: str) -> None:
    found = tokenize([("", "aaaa", "bbbb", "xy")], Letters(), room, "body")
    assert found[0].tolist() == [*ids(expected), EOS]


def test_bos_counts_towards_the_length() -> None:
    tokens = tokenize([("", "abcdef", "", "x")], Letters(prefix=(9,)), 5, "body")
    assert tokens[0].tolist() == [9, *ids("ab"), *ids("x"), EOS]


def test_no_room_for_the_text() -> None:
    with pytest.raises(ConfigError, match=r"data\.max_length=4 leaves no room"):
        tokenize([("", "abcdef", "", "xyz")], Letters(), 4, "body")


@pytest.mark.parametrize(
    ("pieces", "fingerprint", "length", "truncation"),
    [
        ([("", "abcdef", "", "xy"), ("", "b", "", "c")], "letters", 6, "body"),
        ([("", "abcdef", "", "x"), ("", "yb", "", "")], "letters", 6, "body"),
        ([("", "abcdef", "", "xy"), ("", "b", "", "")], "other", 6, "body"),
        ([("", "abcdef", "", "xy"), ("", "b", "", "")], "letters", 5, "body"),
        ([("", "abcdef", "", "xy"), ("", "b", "", "")], "letters", 6, "end"),
    ],
)
def test_cache_is_used_for_equal_arguments_only(
    tmp_path: Path, pieces: list[Pieces], fingerprint: str, length: int, truncation: str
) -> None:
    tokenizer = Letters()
    first = tokenize_cached([("", "abcdef", "", "xy"), ("", "b", "", "")], tokenizer, 6, "body", tmp_path)
    calls = tokenizer.calls
    again = tokenize_cached([("", "abcdef", "", "xy"), ("", "b", "", "")], tokenizer, 6, "body", tmp_path)
    assert tokenizer.calls == calls and np.array_equal(first.ids, again.ids)
    other = Letters(fingerprint=fingerprint)
    found = tokenize_cached(pieces, other, length, truncation, tmp_path)
    assert other.calls > 0
    assert np.array_equal(found.ids, tokenize(pieces, Letters(), length, truncation).ids)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_cache_is_replaced(tmp_path: Path, damage: str) -> None:
    expected = tokenize_cached([("", "abcdef", "", "")], Letters(), 9, "body", tmp_path)
    (file,) = (tmp_path / "tokens").iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes({"cut": content[:-4], "flip": content, "empty": b""}[damage])
    found = tokenize_cached([("", "abcdef", "", "")], Letters(), 9, "body", tmp_path)
    assert np.array_equal(found.ids, expected.ids) and np.array_equal(found.offsets, expected.offsets)


def test_cache_that_cannot_be_written_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert len(tokenize_cached([("", "a", "", "")], Letters(), 4, "body", tmp_path / "file")) == 1
    assert "token cache" in caplog.text


def test_an_id_without_an_embedding_is_named() -> None:
    """The vocabulary may have more entries than the network, as long as none of them occurs."""
    tokens = tokenize([("", "ab", "", "z")], Letters(), 8, "body")
    check_ids(tokens, Letters(), ord("z") + 1)
    check_ids(tokens, Letters(), None)
    with pytest.raises(ConfigError, match=r"gives the id 122 \('z'\), but the model has embeddings for 122 ids"):
        check_ids(tokens, Letters(), ord("z"))


def test_tokens_per_character_of_long_texts() -> None:
    assert tokens_per_character(["ab", "c" * 299], Letters()) is None
    assert tokens_per_character(["ab", "c" * 300], Letters()) == 1


@pytest.mark.parametrize(("rate", "warnings"), [(1.0, 1), (0.6, 0), (1.4, 0), (None, 0)])
def test_a_tokenizer_that_cuts_texts_into_characters_is_told(
    rate: float | None, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_of_characters(rate)
    assert len(caplog.records) == warnings and all("model.tokenizer=FOLDER" in x.message for x in caplog.records)
