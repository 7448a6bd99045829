"""Mappings whose keys are labels, which stay as they are typed."""

import re
from typing import Any

_QUOTED = """"([^"]*)"|'([^']*)'"""
_LABEL_FIRST = re.compile(rf"\s*(?:{_QUOTED}|([^,\s][^,]*?))\s*(?::\s*(?:{_QUOTED}|([^,:]*?))\s*)?(?:,|$)")
_VALUE_FIRST = re.compile(rf"\s*(?:{_QUOTED}|([^,:\s][^,:]*?))\s*(?::\s*(?:{_QUOTED}|([^,]*?))\s*)?(?:,|$)")


def read_mapping(value: Any, last_colon: bool = True) -> Any:
    """A mapping whose keys are text, also where it is written out as text: a label may be ``1``, ``no`` or ``a:b``.

    >>> read_mapping("{spam:3, no: 1}"), read_mapping({1: 0.5}), read_mapping("{a:b:1}")
    ({'spam': '3', 'no': '1'}, {'1': 0.5}, {'a:b': '1'})

    Args:
        value: A value of the configuration; what is no mapping is returned as it is. An entry without a colon is one
            with an empty value, so that a message can name it.
        last_colon: Whether the last colon of an entry without quotes divides it, or the first one.
    """
    if isinstance(value, str) and (inside := re.fullmatch(r"\s*\{(.*)\}\s*", value, re.DOTALL)):
        entries = list((_LABEL_FIRST if last_colon else _VALUE_FIRST).finditer(inside[1]))
        complete = "".join(entry[0] for entry in entries) == inside[1]
        parts = [["".join(filter(None, part)) for part in (e.groups()[:3], e.groups()[3:])] for e in entries]
        return {key: item for key, item in parts} if complete else value
    if isinstance(value, dict):  # true and null in a file may have been any of several words, and are refused
        return {str(key) if type(key) in (int, float) else key: item for key, item in value.items()}
    return value
