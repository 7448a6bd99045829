"""A tokenizer that itself adds what training added: the ids that start a text, and EOS."""

import json
import re
from collections.abc import Iterator, Set
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer, Sequence, Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from llm_cls.data.tokenizer import HubTokenizer, SentencePieceTokenizer
from llm_cls.data.tokenizer import Tokenizer as TrainedTokenizer
from llm_cls.errors import ConfigError
from llm_cls.exporting.sentencepiece import control_pieces, converted, literal_cuts

_ROLES = ("bos_token", "unk_token", "sep_token", "cls_token", "mask_token")
_SPARE = re.compile(r"pad|reserved|unused", re.IGNORECASE)  # names of tokens that no text has
_NO_UTF8 = ("<0xFF>", "ÿ")  # the byte 255, which no text has: of SentencePiece, and of byte-level vocabularies


def serving_tokenizer(
    trained: TrainedTokenizer, max_length: int, used: Set[int], n_embeddings: int | None
) -> PreTrainedTokenizerFast:
    """A fast tokenizer of ``transformers`` with the ids of the training.

    Args:
        trained: The tokenizer of the run.
        max_length: Tokens of a text at most.
        used: All ids of the texts of the run.
        n_embeddings: Of the network, None if unknown.

    Raises:
        ConfigError: The tokenizer has no fast form, or no token that can pad.
    """
    backend, roles = _parts(trained)
    ends = {token: backend.id_to_token(token) for token in (*trained.prefix, trained.eos_id)}
    template = [*(f"{ends[token]}:0" for token in trained.prefix), "$A:0", f"{ends[trained.eos_id]}:0"]
    pair = [*template, "$B:1", f"{ends[trained.eos_id]}:1"]
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = TemplateProcessing(
        single=template, pair=pair, special_tokens=[(name, token) for token, name in ends.items()]
    )
    _keep_literals(backend, trained)
    pad = _padding(backend, roles.pop("pad_token", None), used | ends.keys(), n_embeddings)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{role: name for role, name in roles.items() if name is not None},
        eos_token=ends[trained.eos_id],
        pad_token=pad,
        model_max_length=max_length,
        padding_side="right",
        truncation_side="right",
        split_special_tokens=True,  # as in training: a special token that is written in a text is text
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _parts(trained: TrainedTokenizer) -> tuple[Tokenizer, dict[str, str | None]]:
    """The tokenizer in the form of ``tokenizers``, and its special tokens by their roles."""
    if isinstance(trained, SentencePieceTokenizer):
        backend = converted(trained.proto)
        return backend, control_pieces(trained.proto)
    if not isinstance(trained, HubTokenizer) or trained.source.backend_tokenizer is None:
        raise ConfigError(
            "The tokenizer of this run is Python code, which has no tokenizer.json. It cannot be exported"
        )
    source: Any = trained.source
    roles = {role: getattr(source, role) for role in (*_ROLES, "pad_token")}
    return Tokenizer.from_str(source.backend_tokenizer.to_str()), roles


def _keep_literals(backend: Tokenizer, trained: Any) -> None:
    """Cuts the names of special tokens in a text, which is text in training.

    A unigram model has them as ordinary pieces.
    """
    if json.loads(backend.to_str())["model"]["type"] != "Unigram":
        return
    if isinstance(trained, SentencePieceTokenizer):
        cuts = literal_cuts(trained.proto)
    else:  # as ``HubTokenizer.encode``
        specials = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        cuts = {name: 1 for name in sorted(specials) if len(name) > 1 and name != trained.source.unk_token}
    names = sorted(cuts, key=len, reverse=True)
    found = "|".join(f"{re.escape(name[: cuts[name]])}(?={re.escape(name[cuts[name] :])})" for name in names)
    cut: PreTokenizer = Split(Regex(found), "merged_with_previous")
    backend.pre_tokenizer = Sequence([cut, *([backend.pre_tokenizer] if backend.pre_tokenizer else [])])


def _padding(backend: Tokenizer, own: str | None, taken: Set[int], n_embeddings: int | None) -> str:
    """A token that no text has: ``transformers`` takes the last token that is not padding, by its id."""

    def candidates() -> Iterator[str]:
        if own is not None:
            yield own
        for _, token in sorted(backend.get_added_tokens_decoder().items()):
            if _SPARE.search(token.content):
                yield token.content
        described = json.loads(backend.to_str())
        if described["model"].get("byte_fallback"):
            yield _NO_UTF8[0]
        if '"ByteLevel"' in json.dumps(described["pre_tokenizer"]):
            yield _NO_UTF8[1]

    unknown = json.loads(backend.to_str())["model"]
    unk = unknown.get("unk_id") if "unk_id" in unknown else backend.token_to_id(unknown.get("unk_token") or "")
    for name in candidates():
        token = backend.token_to_id(name)
        if token is not None and token not in taken and token != unk and (n_embeddings is None or token < n_embeddings):
            return name
    raise ConfigError(
        "The tokenizer of this run has no token that can pad: one that no text has, and that is neither BOS nor EOS. "
        "Add pad_token to tokenizer_config.json of the model, and train again"
    )
