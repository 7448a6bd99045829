"""What a secret is, and how it is hidden: passwords and tokens of addresses, and the values of secret keys.

Everything that leaves the process passes through ``redact``: the files of a run and of a sweep, folder names, W&B, the
log and the console. Only the request to a server has the true value.
"""

import logging
import re
from typing import Any

REDACTED = "REDACTED"  # a plain word: it is valid in an address, a file name, YAML and Hydra's grammar

_WORDS = r"token|key|secret|passw|pwd|signature|credential"
_NAME = r"[\w.%\[\]-]*"
_QUOTED = r"""'[^']*'|"[^"]*"|[^\s'",\]}]+"""
_PATTERNS = (
    # https://user:password@host; a password may hold an unescaped "/", "?" or "#", a port may not.
    re.compile(r"(?P<kept>\b[a-z][a-z0-9+.-]*://)(?:[^/?#\s]*|[^/?#\s@:]+:(?!\d{1,5}(?:[/?#\s'\"]|$))[^\s@]*)@", re.I),
    # ?token=abc, also where the rest of the address is missing, as in the messages of urllib3.
    re.compile(rf"(?P<kept>[?&;#](?:{_NAME}(?:{_WORDS}){_NAME}|sig|auth|pw)=)(?:[^&#\s\"'<>]|'(?=\w))+", re.I),
    # hydra.job.env_set.WANDB_API_KEY=abc and HF_TOKEN=abc; not pad_token_id=0 or a word in a text.
    re.compile(
        rf"(?P<kept>(?<![\w.?&])(?:(?:\w+\.)+\w*?|[A-Z][A-Z0-9_]*_)(?i:api_?key|token|secret|password|credentials?)=)"
        rf"(?!{REDACTED})(?:{_QUOTED})"  # not again, in the name of a folder
    ),
    # Keys of the Hugging Face hub and of W&B, wherever they are; the older ones of W&B look like commits.
    re.compile(r"(?P<kept>\b)(?:hf_[A-Za-z0-9]{16,}|wandb_v\d_\w{16,})"),
)  # fmt: skip
_SECRET_NAME = re.compile(r"(?:^|_)(?:api_?key|token|secret|password|credentials?)$", re.I)


def redact(text: str) -> str:
    """``text`` with REDACTED in place of every secret; a redacted text stays as it is.

    >>> redact("data.url=https://me:pw@host/x?token=abc&v=2")
    'data.url=https://REDACTED@host/x?token=REDACTED&v=2'
    """
    for pattern in _PATTERNS:
        text = pattern.sub(_hide, text)
    return text


def redact_tree(value: Any, name: str = "") -> Any:
    """Nested mappings and lists with every text redacted, and the text of a key like ``WANDB_API_KEY`` hidden."""
    if isinstance(value, dict):
        return {key: redact_tree(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_tree(item) for item in value]
    if not isinstance(value, str):
        return value
    return REDACTED if _SECRET_NAME.search(name) and value else redact(value)


def _hide(match: re.Match[str]) -> str:
    ending = "@" if match.group().endswith("@") and match.group("kept").endswith("://") else ""
    return f"{match.group('kept')}{REDACTED}{ending}"


class _Record(logging.LogRecord):
    """A log record whose message and traceback are redacted for every handler."""

    def getMessage(self) -> str:
        return redact(super().getMessage())

    def __setattr__(self, name: str, value: Any) -> None:
        # The first handler caches the traceback here, also for the others.
        super().__setattr__(name, redact(value) if name in ("exc_text", "stack_info") and value else value)


def redact_logs() -> None:
    """Makes all log records of this process redact themselves, whatever handlers Hydra installs."""
    logging.setLogRecordFactory(_Record)
