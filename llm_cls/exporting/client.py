"""Texts for a server of this model: rendered and cut exactly as in training.

This file is part of every export of llm_cls and needs the package ``tokenizers`` alone. A server cuts a text that is
too long at its end, or refuses it; in training the body was cut, so that the end of the template was kept.

    from client import Texts

    texts = Texts("FOLDER")
    texts.token_ids("The body.", title="The title")  # exactly the ids of the training
    texts.string("The body.", title="The title")  # for servers that take strings only
"""

import json
import string
from pathlib import Path

from tokenizers import Tokenizer


class Texts:
    """Makes the input of the model in a folder.

    Attributes:
        max_length: Tokens of a text at most, those that start and end it included.
    """

    def __init__(self, folder: str | Path) -> None:
        """Reads ``tokenizer.json`` and ``llm_cls.json``."""
        described = json.loads((Path(folder) / "llm_cls.json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._tokenizer.encode_special_tokens = True  # a special token that is written in a text is text
        self._template: str = described["template"]
        self._cuts_the_body: bool = described["truncation"] == "body"
        self._prefix: list[int] = described["prefix_ids"]
        self._eos: int = described["eos_id"]
        self.max_length: int = described["max_length"]

    def token_ids(self, body: str, title: str = "") -> list[int]:
        """The ids of a text, with those that start and end it."""
        head, tail = self.render(body, title)
        room = self.max_length - len(self._prefix) - 1
        ids = self._encode(head + tail)
        if len(ids) > room and self._cuts_the_body:
            end = self._encode(tail)
            ids = self._encode(head)[: room - len(end)] + end
        return [*self._prefix, *ids, self._eos][: self.max_length]

    def string(self, body: str, title: str = "") -> str:
        """The text as a string that fits; one that was cut may differ from ``token_ids`` in the tokens at the cut."""
        head, tail = self.render(body, title)
        room = self.max_length - len(self._prefix) - 1

        def fits(characters: int) -> bool:
            return len(self._encode(head[:characters] + tail)) <= room

        if fits(len(head)):
            return head + tail
        ends = [end for _, end in self._tokenizer.encode(head, add_special_tokens=False).offsets]
        left = room - len(self._encode(tail))
        if 0 < left <= len(ends) and fits(ends[left - 1]):  # where training cuts
            return head[: ends[left - 1]] + tail
        kept, beyond = 0, len(head)  # a character, or several unknown ones, may be many tokens
        while beyond - kept > 1:
            middle = (kept + beyond) // 2
            kept, beyond = (middle, beyond) if fits(middle) else (kept, middle)
        return head[:kept] + tail

    def render(self, body: str, title: str = "") -> tuple[str, str]:
        """The template with title and body, as the part that may be cut and the part that is kept."""
        parts = [""]
        for literal, field, _, _ in string.Formatter().parse(self._template):
            parts[-1] += literal
            if field == "title":
                parts[-1] += title
            elif field == "body":
                parts[-1] += body
                parts.append("")
        return parts[0], parts[1]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
