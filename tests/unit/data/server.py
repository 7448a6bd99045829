"""A server for downloads that breaks connections and refuses requests when told to."""

import base64
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTENT = bytes(range(256)) * 2000


class Server(ThreadingHTTPServer):
    content = CONTENT
    honours_range = True
    cuts = 0  # number of answers that end halfway
    status = 200
    announces_length = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.credentials: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/ldcc.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        server.paths.append(self.path)
        if authorization := self.headers.get("Authorization"):
            server.credentials.append(base64.b64decode(authorization.removeprefix("Basic ")).decode())
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.honours_range else 0
        if server.status != 200 or start >= len(server.content):
            self.send_error(server.status if server.status != 200 else 416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if server.announces_length:
            self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        if server.cuts > 0:
            server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...
