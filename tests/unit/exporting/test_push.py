"""Uploads to a hub on loopback."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_cls.errors import ConfigError
from llm_cls.exporting import push as module
from llm_cls.exporting.push import push


class Hub:
    """What a hub has received."""

    def __init__(self) -> None:
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None: ...

        def answer(self, value: Any, status: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            if hub.refuses:
                return self.answer({"error": "Invalid credentials"}, 401)
            self.answer({"id": "org/name", "sha": "0" * 40, "siblings": [], "name": "org", "type": "user"})

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(size)
            hub.tokens.add(self.headers.get("Authorization"))
            if hub.refuses:
                self.answer({"error": "Invalid credentials"}, 401)
            elif self.path == "/api/repos/create":
                hub.created = json.loads(content)
                self.answer({"url": f"{endpoint}/org/name"})
            elif "/preupload/" in self.path:
                asked = json.loads(content)["files"]
                ways = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                self.answer({"files": ways})
            elif "/commit/" in self.path:
                for line in content.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                self.answer({"commitUrl": f"{endpoint}/org/name/commit/1", "commitOid": "1" * 40})
            else:
                self.answer({})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api = module.HfApi
    monkeypatch.setattr(module, "HfApi", lambda: api(endpoint=endpoint, token="hf_secret"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n# x\n")
    return tmp_path


@pytest.mark.parametrize("private", [True, False])
def test_an_export_is_uploaded_as_one_commit(hub: Hub, folder: Path, private: bool) -> None:
    assert push(folder, "org/name", private).endswith("/org/name/commit/1")
    assert (hub.created["name"], hub.created["organization"]) == ("name", "org")
    assert hub.created.get("private", False) == private or hub.created.get("visibility") == "private"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.tokens == {"Bearer hf_secret"}
    assert not [path for path in folder.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]


def test_a_hub_that_refuses_is_one_line(hub: Hub, folder: Path) -> None:
    hub.refuses = True
    with pytest.raises(
        ConfigError, match=r"^push=org/name has failed: .*401.* The export is in .*hf auth login"
    ) as error:
        push(folder, "org/name", True)
    assert "\n" not in str(error.value) and "hf_secret" not in str(error.value)
