"""Download of one file over HTTP that resumes where a broken attempt stopped.

pooch, the usual library for this, does not resume, has no lock between processes and no bound on the size, and
``pooch.retrieve`` does not retry.
"""

import logging
import time
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from llm_cls.errors import DataError
from llm_cls.redaction import redact

log = logging.getLogger(__name__)

_ATTEMPTS = 5
_TIMEOUT_SECONDS = (10, 60)  # to connect, and between two pieces
_MAX_WAIT_SECONDS = 4.0  # between two attempts


def download(url: str, path: Path, max_bytes: int, alternative: str) -> None:
    """Downloads ``url`` into ``path``, with a progress bar; the part that already exists is not requested again.

    The download starts afresh where the server does not honour the range or the file is shorter by now. The
    caller checks the content, because the part may be of another version of the file.

    Args:
        url: Address.
        path: File to write or to continue.
        max_bytes: Size above which the download is refused.
        alternative: Setting that replaces the download where there is no network, for the message.

    Raises:
        DataError: The file could not be downloaded or is too large.
    """
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(min(2**attempt / 4, _MAX_WAIT_SECONDS))
        try:
            if _attempt(url, path, max_bytes):
                return
            reason = "the connection was lost"
        except _TooLargeError:
            path.unlink(missing_ok=True)
            reason = f"the file is larger than {max_bytes} bytes"
            break
        except requests.HTTPError as error:
            status = error.response.status_code
            reason = f"the server answered {status}"
            if status == 416:  # the part is longer than the file, so it belongs to another one
                path.unlink(missing_ok=True)
            elif status < 500 and status != 429:
                break
        except requests.exceptions.ConnectionError as error:
            reason = "no connection"
            log.debug("%s", error)
            if not path.exists() and attempt >= 1:
                break  # nothing has ever arrived: there is no network
        except requests.RequestException as error:
            reason = type(error).__name__
    raise DataError(
        f"{redact(url)} could not be downloaded: {reason}. Download it by other means and set {alternative}"
    )


class _TooLargeError(Exception):
    """The file exceeds the bound."""


def _attempt(url: str, path: Path, max_bytes: int) -> bool:
    """One attempt; returns whether the file is complete."""
    have = path.stat().st_size if path.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as response:
        response.raise_for_status()
        resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        if (total or 0) > max_bytes:
            raise _TooLargeError
        bar = tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=f"Downloading {PurePosixPath(redact(url)).name}"
        )
        with path.open("ab" if resumed else "wb") as file, bar:
            try:
                for piece in response.iter_content(1 << 16):
                    have += len(piece)
                    if have > max_bytes:
                        raise _TooLargeError
                    file.write(piece)
                    bar.update(len(piece))
            except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
                return False  # the part that arrived is kept
        return total is None or have == total
