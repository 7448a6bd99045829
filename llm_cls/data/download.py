"""Download of one file over HTTP that resumes where a broken attempt stopped.

pooch, the usual library for this, does not resume, has no lock between processes and no bound on size and time, and
``pooch.retrieve`` does not retry.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from llm_cls.bounded import call_within
from llm_cls.errors import DataError
from llm_cls.redaction import redact

log = logging.getLogger(__name__)

_ATTEMPTS = 5
_CONNECT_SECONDS = 10.0
_MAX_WAIT_SECONDS = 4.0  # between two attempts
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Limits:
    """How long a download may take, and how large the file may be.

    Attributes:
        total_seconds: For the whole download.
        stall_seconds: Between two bytes.
        max_bytes: Size of the file.
    """

    total_seconds: float
    stall_seconds: float
    max_bytes: int


def download(url: str, path: Path, limits: Limits, alternative: str) -> None:
    """Downloads ``url`` into ``path``, with a progress bar; the part that already exists is not requested again.

    The download starts afresh where the server does not honour the range or the file is shorter by now. The
    caller checks the content, because the part may be of another version of the file. A download that fails leaves
    no part; one that is interrupted does.

    Args:
        url: Address.
        path: File to write or to continue.
        limits: Beyond them the download is given up.
        alternative: Setting that replaces the download where there is no network, for the message.

    Raises:
        DataError: The file could not be downloaded or is too large.
    """
    transfer = _Transfer(url, path, limits)
    try:
        reason = call_within(limits.total_seconds, transfer.run)
    except TimeoutError:
        reason = f"it takes more than {limits.total_seconds:g} s (data.download_timeout_seconds)"
    except Exception:  # the disk is full
        path.unlink(missing_ok=True)
        raise
    finally:
        transfer.stopped = True  # its thread may still wait for the server
    if reason:
        path.unlink(missing_ok=True)
        raise DataError(
            f"{redact(url)} could not be downloaded: {reason}. Download it in another way and set {alternative}"
        )


class _TooLargeError(Exception):
    """The file exceeds the bound."""


class _Transfer:
    """The attempts to download one file; ``stopped`` ends them at the next piece, and nothing is written any more."""

    def __init__(self, url: str, path: Path, limits: Limits) -> None:
        self._url, self._path, self._limits = url, path, limits
        self.stopped = False

    def run(self) -> str:
        """Downloads the file and returns why it failed; "" where it is complete."""
        reason = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(min(2**attempt / 4, _MAX_WAIT_SECONDS))
            if self.stopped:
                break
            try:
                if self._attempt():
                    return ""
                reason = "the connection was lost"
            except _TooLargeError:
                return f"the file is larger than {self._limits.max_bytes} bytes"
            except requests.HTTPError as error:
                status = error.response.status_code
                reason = f"the server answered {status}"
                if status == 416:  # the part is longer than the file, so it belongs to another one
                    self._path.unlink(missing_ok=True)
                elif status < 500 and status != 429:
                    return reason
            except requests.ReadTimeout:
                reason = self._stalled
            except requests.ConnectionError as error:
                reason = "no connection"
                log.debug("%s", error)
                if not self._path.exists() and attempt >= 1:
                    return reason  # nothing has ever arrived: there is no network
            except requests.RequestException as error:
                reason = type(error).__name__
        return reason

    def _attempt(self) -> bool:
        """One attempt; returns whether the file is complete."""
        have = self._path.stat().st_size if self._path.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        seconds = (min(_CONNECT_SECONDS, self._limits.stall_seconds), self._limits.stall_seconds)
        with requests.get(self._url, headers=headers, stream=True, timeout=seconds) as response:
            response.raise_for_status()
            content_range = response.headers.get("Content-Range", "")
            resumed = response.status_code == 206 and content_range.startswith(f"bytes {have}-")
            have = have if resumed else 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length is not None else None
            if (total or 0) > self._limits.max_bytes:
                raise _TooLargeError
            if self.stopped:
                return False
            name = PurePosixPath(redact(self._url)).name
            bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=f"Downloading {name}")
            with self._path.open("ab" if resumed else "wb") as file, bar:
                try:
                    for piece in response.iter_content(_PIECE_BYTES):
                        have += len(piece)
                        if have > self._limits.max_bytes:
                            raise _TooLargeError
                        if self.stopped:
                            return False
                        file.write(piece)
                        bar.update(len(piece))
                except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError) as error:
                    if "Read timed out" in str(error):
                        raise requests.ReadTimeout from None
                    return False  # the part that arrived is kept
            return total is None or have == total

    @property
    def _stalled(self) -> str:
        return f"no byte arrived for {self._limits.stall_seconds:g} s (data.download_stall_seconds)"
