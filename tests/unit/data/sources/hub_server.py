"""A hub of one private data set on this machine: the part of the hub's interface that its clients use to read it."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_of(name: str, files: Mapping[str, bytes], token: str) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub that has the data set ``name``, and the lines of the requests that it has answered."""
    answered: list[str] = []
    tree = [
        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for path, content in files.items()
    ]
    info = {"_id": "1", "id": name, "sha": COMMIT, "private": True, "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": path} for path in files]}  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            answered.append(f"{self.command} {path}")
            revision = rf"(main|{COMMIT})"
            if path == "/":
                return self.answer(b"")
            if self.headers.get("Authorization") != f"Bearer {token}" or name not in path:
                return self.answer(b"", 404, {"X-Error-Code": "RepoNotFound"})
            if re.fullmatch(rf"/api/datasets/{name}(/revision/{revision})?", path):
                return self.answer(json.dumps(info).encode())
            if match := re.fullmatch(rf"/api/datasets/{name}/tree/{revision}/?(?P<under>.*)", path):
                return self.answer(json.dumps([f for f in tree if f["path"].startswith(match["under"])]).encode())  # type: ignore[attr-defined]
            if re.fullmatch(rf"/api/datasets/{name}/paths-info/{revision}", path):
                asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
                return self.answer(json.dumps([f for f in tree if str(f["path"]) in asked]).encode())
            if (match := re.fullmatch(rf"/datasets/{name}/resolve/{revision}/(?P<file>.+)", path)) is None:
                return self.answer(b"", 404, {"X-Error-Code": "RevisionNotFound"})
            if (content := files.get(match["file"])) is None:
                return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            etag = hashlib.sha1(content).hexdigest()
            return self.answer(content, 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

        do_HEAD = do_POST = do_GET

        def answer(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(content))} | dict(headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Tells nobody."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", answered
        server.shutdown()
