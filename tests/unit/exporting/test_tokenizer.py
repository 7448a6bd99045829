"""Exported tokenizers, as ``transformers`` loads them, against those of the training."""

import sys
from itertools import chain
from pathlib import Path

import pytest
import tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm_cls.config.schema import ModelConfig
from llm_cls.data.load import read_corpus
from llm_cls.data.template import layout, render
from llm_cls.data.tokenizer import HubTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer
from llm_cls.data.tokens import tokenize
from llm_cls.errors import ConfigError
from llm_cls.exporting.client import Texts
from llm_cls.exporting.export import write_settings
from llm_cls.exporting.sentencepiece import same_score
from llm_cls.exporting.tokenizer import serving_tokenizer
from tests.unit.data.test_tokenizer import ODD
from tests.unit.data.test_tokenizer import spiece as spiece
from tests.unit.model.test_model import config

LITERAL = ["</s>は文字", "a</s>b<pad>", "<s>", "</s", "[PAD][UNK]<unk>", "<0x41>", "  二つの  空白  "]


def loaded(trained: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    serving_tokenizer(trained, 64, set(), None).save_pretrained(folder)
    found = AutoTokenizer.from_pretrained(folder)
    assert isinstance(found, PreTrainedTokenizerFast)
    return found


def check(trained: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    found = loaded(trained, folder)
    for text in ODD + LITERAL:
        expected = [*trained.prefix, *trained.encode([text])[0], trained.eos_id]
        assert found(text)["input_ids"] == expected, text
        assert found(text, padding="max_length", max_length=60)["input_ids"][: len(expected)] == expected
    pad = found.pad_token_id
    assert pad not in (trained.eos_id, *trained.prefix)
    assert all(pad not in ids for ids in trained.encode(ODD + LITERAL))
    return found


@pytest.mark.parametrize("add_bos", [False, True])
def test_the_tokenizer_adds_bos_and_eos_as_training_does(add_bos: bool, tmp_path: Path) -> None:
    check(load_tokenizer(ModelConfig(name="ja-mini", add_bos=add_bos)), tmp_path)


@pytest.mark.parametrize("add_bos", [False, True])
def test_sentencepiece_models_have_equal_ids(add_bos: bool, spiece: Path, tmp_path: Path) -> None:
    check(SentencePieceTokenizer(spiece / "spiece.model", add_bos), tmp_path)


def test_a_real_sentencepiece_model_has_equal_ids(shared: Path, tmp_path: Path) -> None:
    """Without byte fallback, with a dummy prefix, and with normalization."""
    found = check(SentencePieceTokenizer(shared / "tokenizers/rinna-japanese-gpt2/spiece.model"), tmp_path)
    assert found.pad_token == "[PAD]"


def test_sentencepiece_bpe_has_equal_ids(tmp_path: Path) -> None:
    import sentencepiece

    words = [f"{a}{b}{c}" for a in ("low", "new", "wide") for b in ("er", "est", "") for c in (" the", " and", "s")]
    (tmp_path / "corpus.txt").write_text("\n".join(words * 3), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "bpe"), model_type="bpe", vocab_size=320,
        byte_fallback=True, minloglevel=2, hard_vocab_limit=False, user_defined_symbols=["<sep>"], pad_id=3,
    )  # fmt: skip
    check(SentencePieceTokenizer(tmp_path / "bpe.model"), tmp_path / "out")


def byte_level(pad: str | None) -> HubTokenizer:
    """As GPT-2 has it: one special token for everything."""
    vocab = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))} | {"<|endoftext|>": 256}
    backend = tokenizers.Tokenizer(BPE(vocab, []))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    end = "<|endoftext|>"
    return HubTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, bos_token=end, pad_token=pad), False
    )


@pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
def test_padding_is_never_eos(pad: str | None, tmp_path: Path) -> None:
    """A byte that UTF-8 does not have pads where the tokenizer has no other token."""
    found = check(byte_level(pad), tmp_path)
    assert found.pad_token == "ÿ" and found("ÿ")["input_ids"][:-1] != [found.pad_token_id]


def test_a_token_that_texts_have_does_not_pad(tmp_path: Path) -> None:
    trained = load_tokenizer(ModelConfig(name="ja-mini"))
    found = serving_tokenizer(trained, 64, {3}, None)
    assert found.pad_token == "<0xFF>"
    backend = tokenizers.Tokenizer(WordLevel({"a": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", pad_token="<unk>")
    with pytest.raises(ConfigError, match=r"^The tokenizer of this run has no token that can pad.* Add pad_token"):
        serving_tokenizer(HubTokenizer(words), 64, set(), None)


def test_scores_tell_ties(spiece: Path) -> None:
    trained = SentencePieceTokenizer(spiece / "spiece.model")
    ids = trained.encode(["東京で学ぶ"])[0]
    assert same_score(trained.proto, ids, ids[::-1]) and not same_score(trained.proto, ids, ids[:-1])


@pytest.mark.parametrize("kind", ["ja-mini", "sentencepiece"])
@pytest.mark.parametrize("truncation", ["body", "end"])
@pytest.mark.parametrize(
    "template", ["タイトル: {title}\n本文: {body}\nラベル: ", "タイトル: {title}\n本文: {body}", "{title}\n{body}"]
)
def test_the_client_makes_the_ids_of_the_training(
    kind: str, truncation: str, template: str, spiece: Path, tmp_path: Path
) -> None:
    trained: Tokenizer = (
        load_tokenizer(ModelConfig(name="ja-mini", add_bos=True))
        if kind == "ja-mini"
        else SentencePieceTokenizer(spiece / "spiece.model")
    )
    exported = serving_tokenizer(trained, 48, set(), None)
    exported.save_pretrained(tmp_path)
    made = config("data.max_length=48", f"data.truncation={truncation}")
    made = made.model_copy(update={"template": made.template.model_copy(update={"text": template})})
    write_settings(tmp_path, trained, made, ("a", "b"))
    client = Texts(tmp_path)
    for body in [*ODD, "今日は東京で学ぶ。" * 30, "明日😀" * 50]:
        pieces = [tuple(client.render(body, "題"))]
        assert pieces == [render(layout(made.template, made.data), {"title": "題", "body": body})]
        expected = tokenize(pieces, trained, 48, truncation)[0].tolist()
        assert client.token_ids(body, title="題") == expected
        text = client.string(body, title="題")
        assert len(exported(text)["input_ids"]) <= 48
        if len(tokenize(pieces, trained, 999, truncation)[0]) <= 48:
            assert text == "".join(pieces[0])
        elif truncation == "body":
            assert text.endswith(pieces[0][-1]) and len(exported(text)["input_ids"]) >= 44


def test_the_client_needs_no_sentencepiece(spiece: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = SentencePieceTokenizer(spiece / "spiece.model")
    serving_tokenizer(trained, 48, set(), None).save_pretrained(tmp_path)
    write_settings(tmp_path, trained, config("data.max_length=48"), ("a", "b"))
    exact = Texts(tmp_path).token_ids("今日は東京で学ぶ。" * 30, title="題")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert Texts(tmp_path).token_ids("今日は東京で学ぶ。" * 30, title="題") == exact


@pytest.mark.slow
def test_ids_of_the_whole_corpus(shared: Path, tmp_path: Path) -> None:
    """Of ``tokenizer.json`` but for ties; of the client, which has SentencePiece, all."""
    trained = SentencePieceTokenizer(shared / "tokenizers/rinna-japanese-gpt2/spiece.model")
    made = config(f"data.archive={shared}/data/ldcc-20140209.tar.gz", "data=livedoor")
    exported = serving_tokenizer(trained, made.data.max_length, set(), None)
    exported.save_pretrained(tmp_path)
    write_settings(tmp_path, trained, made, ("a", "b"))
    parts, texts = layout(made.template, made.data), chain.from_iterable(read_corpus(made.data).splits.values())
    rows = [text.values for text in texts]
    pieces = [render(parts, row) for row in rows]
    strings = ["".join(piece) for piece in pieces]
    other = [
        (a, b[:-1])
        for a, b in zip(trained.encode(strings), exported(strings, verbose=False)["input_ids"], strict=True)
        if a != b[:-1]
    ]
    assert len(rows) == 7367 and len(other) == 21 and all(same_score(trained.proto, a, b) for a, b in other)
    client, expected = Texts(tmp_path), tokenize(pieces, trained, made.data.max_length, made.data.truncation)
    for i, row in enumerate(rows):
        assert client.token_ids(**row) == expected[i].tolist()
    uncut = tokenize(pieces, trained, 10**6, made.data.truncation)
    client.max_length, client._room = 10**6, 10**6 - 1
    for i, row in enumerate(rows):
        assert client.token_ids(**row) == uncut[i].tolist()


@pytest.mark.parametrize("cut", ["null", "longest", "c"])
def test_the_client_cuts_several_columns_as_the_training_does(cut: str, tmp_path: Path) -> None:
    trained = load_tokenizer(ModelConfig(name="ja-mini", add_bos=True))
    exported = serving_tokenizer(trained, 40, set(), None)
    exported.save_pretrained(tmp_path)
    table = ["data=table", "data.file=x.csv", "data.label=l", f"data.cut={cut}", "data.columns=[a,b,c]"]
    made = config(*table, "data.max_length=40", "template.text='問: {a}\\n{c}\\n答: {b}。'")
    write_settings(tmp_path, trained, made, ("a", "b"))
    client = Texts(tmp_path)
    for a, b, c in ((1, 1, 1), (9, 3, 1), (1, 30, 2), (30, 30, 30), (0, 1, 40), (40, 0, 0)):
        row = {"a": "東京で。" * a, "b": "明日は雨" * b, "c": "走る" * c}
        pieces = [render(layout(made.template, made.data), row)]
        assert client.token_ids(**row) == tokenize(pieces, trained, 40, "body")[0].tolist()
        text = client.string(**row)
        assert len(exported(text)["input_ids"]) <= 40 and text.endswith("。")
