"""SentencePiece models as ``tokenizer.json`` with equal ids.

transformers 5 reads the files of rinna as those of T5: with a fixed unk id, without byte fallback and newlines.
"""

from collections.abc import Sequence
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, normalizers
from tokenizers.models import BPE, Unigram
from tokenizers.normalizers import Normalizer

from llm_cls.errors import ConfigError

_UNIGRAM, _BPE = 1, 2  # of TrainerSpec
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # of SentencePiece


_SPACE = "▁"  # which stands for a space in pieces


def literal_cuts(proto: bytes) -> dict[str, int]:
    """Where the name of a special token in a text can be cut: between characters that are side by side in no piece.

    ``tokenizers`` would take the name for the token. SentencePiece never does.
    """
    pieces = _model(proto).pieces
    pairs = {
        p.piece[i : i + 2] for p in pieces if p.type not in (_CONTROL, _UNKNOWN, _BYTE) for i in range(len(p.piece) - 1)
    }
    names = [p.piece for p in pieces if p.type in (_CONTROL, _UNKNOWN, _BYTE) and len(p.piece) > 1]
    return {name: next((i for i in range(1, len(name)) if name[i - 1 : i + 1] not in pairs), 1) for name in names}


def _model(proto: bytes) -> Any:
    messages: Any = sentencepiece_model_pb2
    model = messages.ModelProto()
    model.ParseFromString(proto)
    return model


def control_pieces(proto: bytes) -> dict[str, str | None]:
    """The special tokens by their roles in ``transformers``."""
    model = _model(proto)
    spec, names = model.trainer_spec, {piece.piece for piece in model.pieces}
    padding = next((p.piece for p in model.pieces if p.type == _CONTROL and "pad" in p.piece.lower()), None)
    found = {"bos_token": spec.bos_piece, "unk_token": spec.unk_piece, "pad_token": padding}
    return {role: name if name in names else None for role, name in found.items()}


def converted(proto: bytes) -> Tokenizer:
    """The tokenizer of a serialized SentencePiece model.

    Raises:
        ConfigError: It is neither a unigram nor a BPE model.
    """
    model = _model(proto)
    spec, rules = model.trainer_spec, model.normalizer_spec
    if spec.treat_whitespace_as_suffix or spec.model_type not in (_UNIGRAM, _BPE):
        raise ConfigError("Only unigram and BPE models of SentencePiece can be exported; this one is of another type")
    tokenizer = Tokenizer(_unigram(model) if spec.model_type == _UNIGRAM else _bpe(model))
    steps: list[Normalizer] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    if rules.escape_whitespaces:
        steps.append(normalizers.Replace(" ", _SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    special = (_CONTROL, _UNKNOWN)
    tokenizer.add_special_tokens(
        [AddedToken(p.piece, normalized=False, special=True) for p in model.pieces if p.type in special]
    )
    tokenizer.add_tokens([AddedToken(p.piece, normalized=False) for p in model.pieces if p.type == _USER_DEFINED])
    return tokenizer


def same_score(proto: bytes, first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two tokenizations have the same score, as far as sums in float32 can tell."""
    pieces = _model(proto).pieces
    a, b = (sum(pieces[i].score for i in ids) for ids in (first, second))
    return bool(abs(a - b) <= 1e-6 * abs(a))


def _unigram(model: Any) -> Unigram:
    unk = next(i for i, piece in enumerate(model.pieces) if piece.type == _UNKNOWN)
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    return Unigram(pieces, unk_id=unk, byte_fallback=model.trainer_spec.byte_fallback)


def _bpe(model: Any) -> BPE:
    vocab = {piece.piece: i for i, piece in enumerate(model.pieces)}
    scores = {piece.piece: piece.score for piece in model.pieces}
    merges = [
        (-score, vocab[name[:i]], name[:i], name[i:])
        for name, score in scores.items()
        for i in range(1, len(name))
        if name[:i] in vocab and name[i:] in vocab
    ]
    return BPE(
        vocab,
        [(left, right) for _, _, left, right in sorted(merges)],
        unk_token=model.trainer_spec.unk_piece,
        fuse_unk=True,
        byte_fallback=model.trainer_spec.byte_fallback,
    )
