"""Cutting, ending, caching; and exactly the ids of sentencepiece."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from llm_cls.config.schema import ModelConfig
from llm_cls.data.template import render
from llm_cls.data.tokenizer import SentencePieceTokenizer, load_tokenizer
from llm_cls.data.tokens import tokenize, tokenize_cached
from llm_cls.errors import ConfigError

EOS = 1


class Letters:
    """A tokenizer whose ids are the code points of the letters."""

    eos_id, vocab_size = EOS, 0x110000

    def __init__(self, bos_id: int | None = None, fingerprint: str = "letters") -> None:
        self.bos_id, self.fingerprint, self.calls = bos_id, fingerprint, 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        self.calls += 1
        return [[ord(letter) for letter in text] for text in texts]

    def save(self, directory: Path) -> None: ...


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_render_splits_behind_the_body() -> None:
    assert render("[{title}] {body} <{title}>", "題", "文") == ("[題] 文", " <題>")
    assert render("{{{body}}}", "", "a{b}") == ("{a{b}", "}"), "braces of a text are text"


def test_a_text_that_fits_gets_one_eos() -> None:
    tokens = tokenize([("ab", "c"), ("", "")], Letters(), 8, "body")
    assert tokens[0].tolist() == [*ids("abc"), EOS] and tokens[1].tolist() == [EOS]
    assert tokens.lengths.tolist() == [4, 1]


@pytest.mark.parametrize("length", [5, 6, 7, 8])
def test_cutting_the_body_keeps_tail_and_eos(length: int) -> None:
    tokens = tokenize([("abcdef", "xy")], Letters(), length, "body")
    assert tokens[0].tolist() == [*ids("abcdef"[: length - 3]), *ids("xy"), EOS]


def test_cutting_the_end_is_the_published_behaviour() -> None:
    tokens = tokenize([("abcdef", "xy"), ("ab", "")], Letters(), 5, "end")
    assert tokens[0].tolist() == ids("abcde"), "tail and EOS are lost"
    assert tokens[1].tolist() == [*ids("ab"), EOS]


def test_bos_counts_towards_the_length() -> None:
    tokens = tokenize([("abcdef", "x")], Letters(bos_id=9), 5, "body")
    assert tokens[0].tolist() == [9, *ids("ab"), *ids("x"), EOS]


def test_no_room_for_the_text() -> None:
    with pytest.raises(ConfigError, match=r"data\.max_length=4 leaves no room"):
        tokenize([("abcdef", "xyz")], Letters(), 4, "body")


@pytest.mark.parametrize(
    ("pieces", "fingerprint", "length", "truncation"),
    [
        ([("abcdef", "xy"), ("b", "c")], "letters", 6, "body"),
        ([("abcdef", "x"), ("yb", "")], "letters", 6, "body"),
        ([("abcdef", "xy"), ("b", "")], "other", 6, "body"),
        ([("abcdef", "xy"), ("b", "")], "letters", 5, "body"),
        ([("abcdef", "xy"), ("b", "")], "letters", 6, "end"),
    ],
)
def test_cache_is_used_for_the_same_and_for_nothing_else(
    tmp_path: Path, pieces: list[tuple[str, str]], fingerprint: str, length: int, truncation: str
) -> None:
    tokenizer = Letters()
    first = tokenize_cached([("abcdef", "xy"), ("b", "")], tokenizer, 6, "body", tmp_path)
    calls = tokenizer.calls
    again = tokenize_cached([("abcdef", "xy"), ("b", "")], tokenizer, 6, "body", tmp_path)
    assert tokenizer.calls == calls and np.array_equal(first.ids, again.ids)
    other = Letters(fingerprint=fingerprint)
    found = tokenize_cached(pieces, other, length, truncation, tmp_path)
    assert other.calls > 0
    assert np.array_equal(found.ids, tokenize(pieces, Letters(), length, truncation).ids)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    expected = tokenize_cached([("abcdef", "")], Letters(), 9, "body", tmp_path)
    (file,) = (tmp_path / "tokens").iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes({"cut": content[:-4], "flip": content, "empty": b""}[damage])
    found = tokenize_cached([("abcdef", "")], Letters(), 9, "body", tmp_path)
    assert np.array_equal(found.ids, expected.ids) and np.array_equal(found.offsets, expected.offsets)


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert len(tokenize_cached([("a", "")], Letters(), 4, "body", tmp_path / "file")) == 1
    assert "token cache" in caplog.text


ODD = [
    "今日は良い天気です。",
    "",
    " ",
    "\n",
    "改行\nのある\n\n文",
    "</s><s>[PAD]は文字です",
    "ＡＢＣ１２３　全角 と  半角",
    "絵文字😀と𠮷野家",
    "tab\tとnull\x00",
    "未知の文字: ⵣ ꙮ",
]


@pytest.fixture(scope="module")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model with byte fallback and without dummy prefix, as rinna's 3.6b has."""
    folder = tmp_path_factory.mktemp("spiece")
    sentences = [
        f"{a}は{b}で{c}。"
        for a in "今日明日昨日私彼女"
        for b in ("東京", "大阪", "学校")
        for c in ("遊ぶ", "学ぶ", "会う")
    ]
    (folder / "corpus.txt").write_text("\n".join(sentences), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "spiece"), vocab_size=300, byte_fallback=True,
        add_dummy_prefix=False, character_coverage=0.99, remove_extra_whitespaces=False, minloglevel=2,
        hard_vocab_limit=False, normalization_rule_name="identity", pad_id=3,
    )  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    (folder / "config.json").write_text("{}")
    return folder


def check_against_sentencepiece(tokenizer: object, model: Path) -> None:
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.encode(ODD) == [oracle.encode(text, out_type=int) for text in ODD]
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (oracle.eos_id(), oracle.vocab_size())
    assert all(tokenizer.eos_id not in row for row in tokenizer.encode(ODD)), "a literal </s> is text"


def test_sentencepiece_ids_on_a_model_with_byte_fallback(spiece: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(name=str(spiece), tokenizer_kind="sentencepiece"))
    check_against_sentencepiece(tokenizer, spiece / "spiece.model")
    newline, emoji = tokenizer.encode(["\n"])[0], tokenizer.encode(["😀"])[0]
    assert len(newline) == 1 and len(emoji) == 4, "bytes, not unknown tokens"
    tokenizer.save(tmp_path)
    again = load_tokenizer(ModelConfig(name=str(tmp_path), tokenizer_kind="sentencepiece"))
    assert again.fingerprint == tokenizer.fingerprint and again.encode(ODD) == tokenizer.encode(ODD)


def test_what_transformers_would_misread_is_read_by_sentencepiece(spiece: Path) -> None:
    check_against_sentencepiece(load_tokenizer(ModelConfig(name=str(spiece))), spiece / "spiece.model")


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_damaged_description_of_a_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"model.name: .* can't be loaded as a model folder"):
        load_tokenizer(ModelConfig(name=str(tmp_path)))


def test_sentencepiece_ids_on_a_real_rinna_model(shared: Path) -> None:
    model = shared / "tokenizers" / "rinna-japanese-gpt2" / "spiece.model"
    check_against_sentencepiece(load_tokenizer(ModelConfig(name="ja-mini", tokenizer=str(model))), model)


def test_shipped_tokenizer_adds_and_recognises_no_special_token() -> None:
    from tokenizers import Tokenizer

    from llm_cls.hub import SHIPPED

    tokenizer = load_tokenizer(ModelConfig(name="ja-mini"))
    oracle = Tokenizer.from_file(str(SHIPPED["ja-mini"] / "tokenizer.json"))
    oracle.encode_special_tokens = True
    plain = [text for text in ODD if "</s>" not in text]
    assert tokenizer.encode(plain) == [oracle.encode(text, add_special_tokens=False).ids for text in plain]
    assert (tokenizer.eos_id, tokenizer.bos_id) == (2, None)
    special = "</s><s><pad>は文字</s>"
    (row,) = tokenizer.encode([special])
    assert all(i > 3 for i in row), "what is written out in a text is text"
    assert oracle.decode(row) == special
