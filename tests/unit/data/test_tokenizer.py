"""Tokenizers against sentencepiece and tokenizers themselves."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from llm_cls.config.schema import ModelConfig
from llm_cls.data.tokenizer import SentencePieceTokenizer, load_tokenizer
from llm_cls.errors import ArtifactError, ConfigError
from llm_cls.hub import SHIPPED

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
    assert tokenizer.eos_id == oracle.eos_id() and tokenizer.piece(7) == oracle.id_to_piece(7)
    assert all(tokenizer.eos_id not in row for row in tokenizer.encode(ODD)), "a literal </s> is text"


def test_sentencepiece_ids_on_a_model_with_byte_fallback(spiece: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(name=str(spiece), tokenizer_kind="sentencepiece"))
    check_against_sentencepiece(tokenizer, spiece / "spiece.model")
    newline, emoji = tokenizer.encode(["\n"])[0], tokenizer.encode(["😀"])[0]
    assert len(newline) == 1 and len(emoji) == 4, "bytes, not unknown tokens"
    tokenizer.save(tmp_path)
    again = load_tokenizer(ModelConfig(name=str(tmp_path), tokenizer_kind="sentencepiece"))
    assert again.fingerprint == tokenizer.fingerprint and again.encode(ODD) == tokenizer.encode(ODD)


def test_sentencepiece_reads_what_transformers_would_misread(spiece: Path) -> None:
    check_against_sentencepiece(load_tokenizer(ModelConfig(name=str(spiece))), spiece / "spiece.model")


@pytest.mark.parametrize(("described", "bos"), [({}, True), ({"add_bos_token": False}, False)])
def test_a_unigram_model_under_the_name_of_a_class_of_byte_pairs(
    spiece: Path, tmp_path: Path, described: dict[str, bool], bos: bool
) -> None:
    model = tmp_path / "tokenizer.model"
    shutil.copy(spiece / "spiece.model", model)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **described}))
    tokenizer = load_tokenizer(ModelConfig(name=str(tmp_path)))
    check_against_sentencepiece(tokenizer, model)
    assert tokenizer.prefix == ((1,) if bos else ())
    model.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"tokenizer\.model is not a SentencePiece model"):
        load_tokenizer(ModelConfig(name=str(tmp_path)))
    shutil.copy(spiece / "spiece.model", model)
    assert load_tokenizer(ModelConfig(name=str(tmp_path), add_bos=not bos)).prefix == (() if bos else (1,))


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_damaged_description_of_a_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"model.name: .* could not be loaded as a model folder"):
        load_tokenizer(ModelConfig(name=str(tmp_path)))


NESTED = '{"a":' * 50_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", NESTED),
        ("tokenizer.json", NESTED),
        ("tokenizer_config.json", '{"eos_token": "</s>", "model_max_length": {}}'),  # found when it is used
    ],
    ids=["nested description", "nested tokens", "length"],
)
def test_damaged_files_of_a_tokenizer(tmp_path: Path, file: str, content: str) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(SHIPPED["ja-mini"] / name, tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises((ArtifactError, ConfigError), match=r"^model.name: [^\n]+$"):
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
    assert (tokenizer.eos_id, tokenizer.prefix) == (2, ())
    special = "</s><s><pad>は文字</s>"
    (row,) = tokenizer.encode([special])
    assert all(i > 3 for i in row), "a special token that is written in a text is text"
    assert oracle.decode(row) == special


def own_tokenizer(folder: Path, prefix: Sequence[str], **special: str) -> ModelConfig:
    """A tokenizer of words that puts ``prefix`` before a text."""
    words = ["[UNK]", "</s>", "<s>", "[gMASK]", "<sop>", "a", "b"]
    backend = tokenizers.Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    if prefix:
        tokens = [(token, words.index(token)) for token in prefix]
        backend.post_processor = TemplateProcessing(  # type: ignore[assignment]
            single=" ".join([*prefix, "$A"]), special_tokens=tokens
        )
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return ModelConfig(name=str(folder))


@pytest.mark.parametrize(
    ("prefix", "special", "add_bos", "expected"),
    [
        (["[gMASK]", "<sop>"], {}, None, (3, 4)),
        (["[gMASK]", "<sop>"], {}, False, ()),
        (["[gMASK]", "<sop>"], {"bos_token": "<s>"}, True, (2, 3, 4)),
        (["</s>"], {}, None, (1,)),
        (["<s>"], {"bos_token": "<s>"}, None, (2,)),
        (["<s>"], {"bos_token": "<s>"}, True, (2,)),
        ([], {"bos_token": "<s>"}, None, ()),
        ([], {"bos_token": "<s>"}, True, (2,)),
    ],
)
def test_the_prefix_of_a_tokenizer_is_kept_unless_add_bos_says_otherwise(
    tmp_path: Path, prefix: list[str], special: dict[str, str], add_bos: bool | None, expected: tuple[int, ...]
) -> None:
    config = own_tokenizer(tmp_path, prefix, eos_token="</s>", unk_token="[UNK]", **special)
    tokenizer = load_tokenizer(config.model_copy(update={"add_bos": add_bos}))
    assert tokenizer.prefix == expected and tokenizer.encode(["a b"]) == [[5, 6]]


def test_add_bos_needs_a_bos(tmp_path: Path, spiece: Path) -> None:
    config = own_tokenizer(tmp_path, [], eos_token="</s>")
    with pytest.raises(ConfigError, match=r"model\.add_bos=true needs a BOS token, but the tokenizer of .* has none"):
        load_tokenizer(config.model_copy(update={"add_bos": True}))
    assert load_tokenizer(ModelConfig(name=str(spiece), add_bos=True)).prefix == (1,)


def test_the_eos_of_the_model_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    config = own_tokenizer(tmp_path, [])
    assert load_tokenizer(config, 6).eos_id == load_tokenizer(config, [6]).eos_id == 6
    with pytest.raises(ConfigError, match=r"no EOS token, .*, and the model names 2 \(\[5, 6\]\)\. Add eos_token to"):
        load_tokenizer(config, [5, 6])
    with pytest.raises(ConfigError, match=r"no EOS token, which every text must end with\. Add eos_token to"):
        load_tokenizer(config)
