"""A server for downloads that breaks connections and refuses requests when told to."""

import base64
import itertools
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTENT = bytes(range(256)) * 2000


class Server(ThreadingHTTPServer):
    content = CONTENT
    honours_range = True
    cuts = 0  # number of answers that end halfway
    status = 200
    announces_length = True
    behaviour = ""  # "silent", "trickle", "headers" (a byte at a time) or "endless"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ended = threading.Event()
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
        if server.behaviour == "headers":
            self.trickle(b"HTTP/1.0 200 OK\r\nX-Long: ")
            return
        self.send_response(206 if start else 200)
        if server.announces_length:
            self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        if server.cuts > 0:
            server.cuts -= 1
            body = body[: len(body) // 2]
        if server.behaviour == "silent":
            server.ended.wait()
        elif server.behaviour == "trickle":
            self.trickle(body)
        elif server.behaviour == "endless":
            with suppress(ConnectionError):
                while not server.ended.is_set():
                    self.wfile.write(body)
        else:
            self.wfile.write(body)

    def trickle(self, content: bytes) -> None:
        """Sends a byte at a time and then zeros, for ever."""
        self.wfile.flush()
        with suppress(ConnectionError):
            for byte in itertools.chain(content, itertools.repeat(0x30)):
                self.wfile.write(bytes([byte]))
                if self.server.ended.wait(0.02):
                    break

    def log_message(self, *arguments: object) -> None: ...
