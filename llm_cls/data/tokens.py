"""Texts as token ids: truncated, ended with EOS exactly once, cached for the next run."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llm_cls.data.template import Pieces
from llm_cls.data.tokenizer import Tokenizer
from llm_cls.errors import ConfigError
from llm_cls.files import atomic_path, sha256_json

log = logging.getLogger(__name__)

_LONG_TEXT = 300  # characters
_SAMPLE = 8  # long texts
_FORMAT = 1  # increase it when the same key would stand for other ids


@dataclass(frozen=True)
class Tokens:
    """The ids of n texts, concatenated.

    Attributes:
        ids: int32, shape ``(total_tokens,)``.
        offsets: int64, shape ``(n + 1,)``: text i is ``ids[offsets[i]:offsets[i + 1]]``.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        """The ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens per text, shape ``(n,)``."""
        return np.diff(self.offsets)


def tokenize(pieces: Sequence[Pieces], tokenizer: Tokenizer, max_length: int, truncation: str) -> Tokens:
    """Ids of ``prefix text EOS`` for every text.

    A text that fits is encoded as a whole. A longer one is truncated: with "body" at the end of each of its values, the
    longest first, which keeps the end of the template and the EOS; with "end" at the end of the sequence, which loses
    them.

    Args:
        pieces: The parts of each text, as ``template.render`` returns them.
        tokenizer: Encodes without special tokens.
        max_length: Maximum number of tokens per text, prefix and EOS included; at least 2.
        truncation: "body" or "end".

    Raises:
        ConfigError: Prefix and end of the template alone exceed ``max_length``.
    """
    start = list(tokenizer.prefix)
    room = max_length - len(start) - 1
    rows: list[list[int]] = []
    for first in range(0, len(pieces), 1024):
        chunk = pieces[first : first + 1024]
        whole = tokenizer.encode(["".join(parts) for parts in chunk])
        long = [i for i, ids in enumerate(whole) if len(ids) > room]
        if truncation == "body" and long:
            for i, shorter in zip(long, _cut([chunk[i] for i in long], tokenizer, room, max_length), strict=True):
                whole[i] = shorter
        rows += [(start + ids + [tokenizer.eos_id])[:max_length] for ids in whole]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    ids = np.fromiter((i for row in rows for i in row), np.int32, count=int(offsets[-1]))
    return Tokens(ids, offsets)


def _cut(pieces: Sequence[Pieces], tokenizer: Tokenizer, room: int, max_length: int) -> Iterator[list[int]]:
    """Ids of texts that have more than ``room`` tokens, cut to that many.

    Each value is encoded together with the literal text before it, so that a single one is cut as if nothing came after
    it.
    """
    strings = [s for p in pieces for s in (*_heads(p), *p[:-2:2], p[-2] + p[-1], p[-2], p[-1])]
    encoded = iter(tokenizer.encode(strings))
    for parts in pieces:
        n_values = len(parts) // 2 - 1
        heads = list(islice(encoded, n_values))
        before = [len(ids) for ids in islice(encoded, n_values)]
        tail, rest, suffix = islice(encoded, 3)
        if len(suffix) >= room:
            raise ConfigError(
                f"data.max_length={max_length} leaves no room for a text: the template needs "
                f"{len(suffix)} tokens after the last column. Try data.max_length={2 * len(suffix) + 64}"
            )
        if len(tail) > room:  # columns that are not to be cut are too long by themselves
            tail = rest[: room - len(suffix)] + suffix
        kept = kept_lengths([len(ids) for ids in heads], before, room - len(tail))
        yield [i for ids, n in zip(heads, kept, strict=True) for i in ids[:n]] + tail


def _heads(parts: Pieces) -> list[str]:
    """Each value with the literal text before it."""
    return [before + value for before, value in zip(parts[:-2:2], parts[1:-2:2], strict=True)]


def kept_lengths(lengths: Sequence[int], fixed: Sequence[int], room: int) -> list[int]:
    """How many tokens of each part are kept where ``room`` are allowed: the longest part is cut first.

    Parts that are cut keep the same number of tokens. What does not divide evenly stays with those that were longer,
    and of equals with the last, as in the tokenizers of Hugging Face (``longest_first``).

    Args:
        lengths: Tokens of each part.
        fixed: Tokens at the beginning of each that are kept before any others; all are cut alike where there is no
            room for them.
        room: Tokens in all; fewer than ``lengths`` sum up to.

    >>> kept_lengths([9, 3], [0, 0], 8), kept_lengths([9, 9], [0, 0], 5), kept_lengths([9, 9], [4, 0], 8)
    ([5, 3], [2, 3], [6, 2])
    """
    if sum(fixed) > room:
        fixed = [0] * len(lengths)
    free = [max(0, n - f) for n, f in zip(lengths, fixed, strict=True)]
    left = room - sum(min(pair) for pair in zip(lengths, fixed, strict=True))
    kept = [0] * len(free)
    shortest_first = sorted(range(len(free)), key=lambda i: (free[i], i))
    for position, i in enumerate(shortest_first):
        kept[i] = min(free[i], left // (len(free) - position))
        left -= kept[i]
    return [k + min(n, f) for k, n, f in zip(kept, lengths, fixed, strict=True)]


def check_ids(tokens: Tokens, tokenizer: Tokenizer, n_embeddings: int | None) -> None:
    """Checks that the network has an embedding for every id; the vocabulary itself may be larger.

    Args:
        tokens: The ids.
        tokenizer: That gave them.
        n_embeddings: Of the network, None if unknown.

    Raises:
        ConfigError: Some id has none.
    """
    largest = int(tokens.ids.max(initial=0))
    if n_embeddings is not None and largest >= n_embeddings:
        raise ConfigError(
            f"model.tokenizer gives the id {largest} ({tokenizer.piece(largest)!r}), but the model has embeddings for "
            f"{n_embeddings} ids. Give the tokenizer that belongs to the model"
        )


def tokens_per_character(texts: Sequence[str], tokenizer: Tokenizer) -> float | None:
    """The rate on the longest of ``texts``, None where none of them is long."""
    longest = sorted((text for text in texts if len(text) >= _LONG_TEXT), key=len)[-_SAMPLE:]
    characters = sum(map(len, longest))
    return sum(map(len, tokenizer.encode(longest))) / characters if characters else None


def tokenize_cached(
    pieces: Sequence[Pieces], tokenizer: Tokenizer, max_length: int, truncation: str, cache_dir: Path
) -> Tokens:
    """``tokenize``, cached in ``cache_dir`` under a key of everything that can change an id.

    The key contains the strings themselves, and with them the data and the template. A damaged file is
    replaced.
    """
    ends = [list(tokenizer.prefix), tokenizer.eos_id]
    # The value of a single column is encoded together with what is before it, so they count as one string.
    parts = [(p[0] + p[1], p[3]) if len(p) == 4 and not p[2] else p for p in pieces]
    key = sha256_json([_FORMAT, parts, tokenizer.fingerprint, ends, max_length, truncation])
    path = cache_dir / "tokens" / f"{key}.safetensors"
    if (tokens := _read(path, key)) is not None:
        return tokens
    tokens = tokenize(pieces, tokenizer, max_length, truncation)
    try:
        with atomic_path(path) as temporary:
            arrays: dict[str, npt.NDArray[Any]] = {"ids": tokens.ids, "offsets": tokens.offsets}
            save_file(arrays, temporary, metadata={"key": key, "sha256": _checksum(tokens)})
    except OSError as error:  # a run does not need its cache
        log.warning("The token cache could not be written: %s: %s", path.parent, error.strerror or error)
    return tokens


def _checksum(tokens: Tokens) -> str:
    """Hex sha256 of ids and offsets."""
    return hashlib.sha256(tokens.ids.tobytes() + tokens.offsets.tobytes()).hexdigest()


def _read(path: Path, key: str) -> Tokens | None:
    """The tokens in a cache file; None where it is missing, damaged or of another key."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tokens = Tokens(file.get_tensor("ids"), file.get_tensor("offsets"))
    except (OSError, SafetensorError):
        return None
    intact = metadata.get("key") == key and metadata.get("sha256") == _checksum(tokens)
    return tokens if intact else None
