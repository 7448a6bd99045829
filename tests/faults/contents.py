"""What a file may hold instead of its content: anything, the content with a change, or values of another form."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from hypothesis import strategies as st

ODD = (
    b"", b"\n", b"\0", b"\xff\xfe\x00", b"\xef\xbb\xbf{}", b"null", b"[]", b"{}", b"[[]]", b"1", b'""', b"NaN",
    b"1e999", b"9" * 5000, b"[" * 100_000, b'{"a":' * 50_000, b'{"schema": 1e400}', b'"\\ud800"', b'{"a": 1, "a": 2}',
    b"{'a': 1}", b"a: !!python/object/apply:os.system [ls]", b"? [1]\n: 2", b"a: &a [*a]", b"<<: [1]", b"a: 2012-13-45",
    b"a: 1:60", b"- " * 2000, b"%YAML 9.9\n---\n", b"a: |\n\t", b"\r\n\r\n", b'"unclosed', b"a,b\n1\n1,2,3\n",
    b"PK\x03\x04", b"PAR1PAR1", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 8 + b"{}", b"\x02\0\0\0\0\0\0\0{}",
)  # fmt: skip

numbers = st.integers() | st.sampled_from([10**400, -(2**63), 2**64]) | st.floats()
strings = st.text(max_size=12) | st.sampled_from(["\ud800", "\0", "\u2028", "..", "/", "inf", "nan", "null", "1e5"])
values = st.recursive(
    st.none() | st.booleans() | numbers | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` with a part replaced, repeated or left out."""
    start = draw(st.integers(0, len(content)))
    end = min(len(content), start + draw(st.integers(0, 16) | st.integers(0, len(content))))
    return content[:start] + draw(st.binary(max_size=8) | st.just(content[start:end] * 2)) + content[end:]


@st.composite
def changed_value(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value of which one part has another form, is missing or is new."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        kind = draw(st.integers(0, 5))
        rest = {name: item for name, item in value.items() if name != key}
        if kind == 0:
            return rest
        if kind == 1:
            return rest | {draw(strings): value[key]}
        return rest | {key: draw(changed_value(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        i = draw(st.integers(0, len(value) - 1))
        return [*value[:i], *([] if draw(st.integers(0, 5)) == 0 else [draw(changed_value(value[i]))]), *value[i + 1 :]]
    return draw(values)


@st.composite
def _changed_lines(draw: st.DrawFn, lines: list[bytes]) -> bytes:
    i = draw(st.integers(0, len(lines) - 1))
    return b"\n".join([*lines[:i], encode(draw(changed_value(json.loads(lines[i])))), *lines[i + 1 :]])


def encode(value: Any) -> bytes:
    """JSON as other programs may write it: lone surrogates, NaN and all."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def contents(valid: bytes, name: str) -> st.SearchStrategy[bytes]:
    """Contents for the file ``name``, of which ``valid`` is a whole one."""
    found = [st.sampled_from(ODD), st.binary(max_size=64), values.map(encode), changed(valid)]
    if name.endswith(".json"):
        found += [changed_value(json.loads(valid)).map(encode)] * 3
    if name.endswith(".jsonl"):
        found += [_changed_lines(valid.splitlines())] * 3
    return st.one_of(found)


@contextmanager
def hangs_fail(seconds: int = 60) -> Iterator[None]:
    """Ends what does not end."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
