"""Texts for a server of this model: rendered and cut exactly as in training.

This file is part of every export of llm_cls and needs the package ``tokenizers`` alone. Where the export has a
SentencePiece model, ids are exact with the package ``sentencepiece``: the two add scores with another rounding, so that
they divide a few long texts in different ways. A server cuts a text that is
too long at its end, or refuses it; in training its columns were cut, so that the end of the template was kept.

    from client import Texts

    texts = Texts("FOLDER")
    texts.token_ids("The body.", title="The title")  # exactly the ids of the training
    texts.string("The body.", title="The title")  # for servers that take strings only

Other columns of the template are given by their names: ``texts.token_ids(question="Why?", answer="So.")``.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from tokenizers import Encoding, Tokenizer


class _Ids(NamedTuple):
    ids: list[int]


class _HasIds(Protocol):
    @property
    def ids(self) -> list[int]: ...


_Encoded = TypeVar("_Encoded", bound=_HasIds)


class Texts:
    """Makes the input of the model in a folder.

    Attributes:
        max_length: Tokens of a text at most, those that start and end it included.
    """

    def __init__(self, folder: str | Path) -> None:
        """Reads ``tokenizer.json`` and ``llm_cls.json``."""
        described = json.loads((Path(folder) / "llm_cls.json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._processor = _sentence_piece(Path(folder) / "sentencepiece.model")
        self._tokenizer.encode_special_tokens = True  # a special token that is written in a text is text
        self._slots: list[tuple[str, str]] = described["slots"]
        self._tail: str = described["tail"]
        self._cut_columns: list[str] = described["cut"]
        self._cuts_columns: bool = described["truncation"] == "body"
        self._prefix: list[int] = described["prefix_ids"]
        self._eos: int = described["eos_id"]
        self.max_length: int = described["max_length"]
        self._room: int = self.max_length - len(self._prefix) - 1

    def token_ids(self, /, body: str = "", title: str = "", **columns: str) -> list[int]:
        """The ids of a text, with those that start and end it."""
        parts = self.render(body, title, **columns)
        ids = self._exact("".join(parts)).ids
        if len(ids) > self._room and self._cuts_columns:
            ids = [i for found, kept in _cut(parts, self._room, self._exact) for i in found.ids[:kept]]
        return [*self._prefix, *ids, self._eos][: self.max_length]

    def string(self, /, body: str = "", title: str = "", **columns: str) -> str:
        """The text as a string that fits; one that was cut may differ from ``token_ids`` in the tokens at the cut."""
        parts = self.render(body, title, **columns)
        if not self._cuts_columns:
            parts = ["", "".join(parts), "", ""]  # the whole text is cut at its end
        if self._fits(text := "".join(parts)):
            return text
        strings, ends = self._characters(parts, self._room)  # where training cuts
        if not self._fits(_joined(strings, ends)):  # a character may be many tokens
            room = _most(lambda n: self._fits(_joined(*self._characters(parts, n))), self._room)
            strings, ends = self._characters(parts, room)
            i = max(range(len(ends)), key=lambda i: len(strings[i]) - ends[i])  # a token may be many unknown characters
            more = _most(lambda n: self._fits(_joined(strings, _longer(ends, i, n))), len(strings[i]) - ends[i] + 1)
            ends = _longer(ends, i, more)
        return _joined(strings, ends)

    def _fits(self, text: str) -> bool:
        return len(self._encode(text).ids) <= self._room

    def _characters(self, parts: Sequence[str], room: int) -> tuple[list[str], list[int]]:
        """The strings that are cut, and how many characters of each belong to the tokens that are kept."""
        found = _cut(parts, room, self._encode)
        heads = [a + b for a, b in zip(parts[:-2:2], parts[1:-2:2], strict=True)]
        strings = [*heads, *(["".join(parts[-2:])] if len(found) == len(heads) + 1 else parts[-2:])]
        return strings, [encoded.offsets[kept - 1][1] if kept else 0 for encoded, kept in found]

    def render(self, /, body: str = "", title: str = "", **columns: str) -> list[str]:
        """The text in parts: those that may be cut, each after what is before it, the rest, and the end."""
        values = {"body": body, "title": title} | columns
        parts, before = [], ""
        for literal, name in self._slots:
            before += literal
            if name in self._cut_columns:
                parts += [before, values[name]]
                before = ""
            else:
                before += values[name]
        return [*parts, before, self._tail]

    def _exact(self, text: str) -> _Ids:
        return _Ids(self._encode(text).ids) if self._processor is None else self._processor(text)

    def _encode(self, text: str) -> Encoding:
        return self._tokenizer.encode(text, add_special_tokens=False)


def _cut(parts: Sequence[str], room: int, encode: Callable[[str], _Encoded]) -> list[tuple[_Encoded, int]]:
    """The parts with how many tokens of each are kept: each value with what is before it, the rest, the end."""
    heads = [encode(a + b) for a, b in zip(parts[:-2:2], parts[1:-2:2], strict=True)]
    fixed = [len(encode(before).ids) for before in parts[:-2:2]]
    rest, end = encode(parts[-2]), encode(parts[-1])
    tail = encode(parts[-2] + parts[-1])
    if len(tail.ids) <= room:
        ends = [(tail, len(tail.ids))]
    else:  # columns that are not to be cut are too long by themselves
        ends = [(rest, min(len(rest.ids), max(0, room - len(end.ids)))), (end, len(end.ids))]
    left = max(0, room - sum(kept for _, kept in ends))
    lengths = _kept([len(head.ids) for head in heads], fixed, left)
    return [*zip(heads, lengths, strict=True), *ends]


def _sentence_piece(model: Path) -> Callable[[str], _Ids] | None:
    """The SentencePiece model of the training, if there is one and its package is installed."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        return None
    if not model.is_file():
        return None
    processor: Any = SentencePieceProcessor(model_file=str(model))
    return lambda text: _Ids(processor.encode(text))


def _joined(strings: Sequence[str], ends: Sequence[int]) -> str:
    return "".join(string[:end] for string, end in zip(strings, ends, strict=True))


def _longer(ends: Sequence[int], i: int, n: int) -> list[int]:
    return [end + n * (i == j) for j, end in enumerate(ends)]


def _most(fits: Callable[[int], bool], beyond: int) -> int:
    """The largest number below ``beyond`` that fits, by bisection; 0 is taken to fit."""
    most = 0
    while beyond - most > 1:
        middle = (most + beyond) // 2
        most, beyond = (middle, beyond) if fits(middle) else (most, middle)
    return most


def _kept(lengths: Sequence[int], fixed: Sequence[int], room: int) -> list[int]:
    """How many tokens of each part are kept where ``room`` are allowed: the longest part is cut first."""
    if sum(fixed) > room:
        fixed = [0] * len(lengths)
    free = [max(0, n - f) for n, f in zip(lengths, fixed, strict=True)]
    left = room - sum(min(pair) for pair in zip(lengths, fixed, strict=True))
    kept = [0] * len(free)
    for position, i in enumerate(sorted(range(len(free)), key=lambda i: (free[i], i))):
        kept[i] = min(free[i], left // (len(free) - position))
        left -= kept[i]
    return [k + min(n, f) for k, n, f in zip(kept, lengths, fixed, strict=True)]
