"""Fetching one file over HTTP, going on where a broken attempt stopped."""

import logging
import time
from pathlib import Path

import requests
from tqdm import tqdm

from llm_cls.errors import DataError

log = logging.getLogger(__name__)

_ATTEMPTS = 5
_TIMEOUT_SECONDS = (10, 60)  # to connect, and between two pieces


def download(url: str, path: Path, alternative: str) -> None:
    """Fetches ``url`` into ``path``, with a progress bar; what is already there is not fetched again.

    A server that doesn't honour the range, or whose file has another size by now, makes it start anew.

    Args:
        url: Address.
        path: File to write or to go on with.
        alternative: What the user can give instead where there is no network.

    Raises:
        DataError: It can't be fetched.
    """
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(min(2**attempt / 4, 4))
        try:
            if _fetch(url, path):
                return
            reason = "the connection broke off"
        except requests.HTTPError as error:
            status = error.response.status_code
            reason = f"the server answered {status}"
            if status == 416:  # the part is longer than the file: it belongs to another one
                path.unlink(missing_ok=True)
            elif status < 500 and status != 429:
                break
        except requests.exceptions.ConnectionError as error:
            reason = "no connection"
            log.debug("%s", error)
            if not path.exists() and attempt >= 1:
                break  # nothing ever came: there is no network
        except requests.RequestException as error:
            reason = type(error).__name__
    raise DataError(f"{url} can't be fetched: {reason}. Fetch it by other means and give it as {alternative}")


def _fetch(url: str, path: Path) -> bool:
    """One attempt; True if the file is whole."""
    have = path.stat().st_size if path.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as response:
        response.raise_for_status()
        resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not resumed:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        mode = "ab" if resumed else "wb"
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=f"Fetching {url.rpartition('/')[2]}")
        with path.open(mode) as file, bar:
            try:
                for piece in response.iter_content(1 << 16):
                    file.write(piece)
                    bar.update(len(piece))
            except requests.exceptions.ChunkedEncodingError:
                return False  # what came so far is kept
            except requests.exceptions.ConnectionError:
                return False
        return total is None or path.stat().st_size == total
