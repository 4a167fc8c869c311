"""Weights from a hub that breaks off, lies, or is not there: a hub of our own on this machine plays the part."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lipsep.checkpoints.folder import save_model
from lipsep.models import create_model

NAME, COMMIT = "somebody/model", "0123456789abcdef0123456789abcdef01234567"
LOAD = f"from lipsep import load_model; print(load_model('{NAME}').name)"


class Hub(ThreadingHTTPServer):
    """Serves one repository as huggingface.co does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.hashes = {"config.json": _git_hash(self.files["config.json"])}
        self.hashes["model.safetensors"] = hashlib.sha256(self.files["model.safetensors"]).hexdigest()
        self.break_after: int | None = None  # bytes of the weights, in the next answer
        self.ranges: list[str] = []  # asked for, of the weights


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if self.path.startswith("/api/models/"):
            rows = [self._row(name) for name in self.server.files]
            card = {"id": NAME, "sha": COMMIT, "siblings": rows}
            return self._send(200, json.dumps(rows if "/tree/" in self.path else card).encode(), {})
        name = self.path.split("/")[-1].split("?")[0]
        if name not in self.server.files:
            return self._send(404, b"", {})
        content, asked = self.server.files[name], self.headers.get("Range")
        headers = {"ETag": f'"{self.server.hashes[name]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not body:
            return self._send(200, content, headers, body=False)
        start = int(asked.split("=")[1].split("-")[0]) if asked else 0
        if name == "model.safetensors":
            self.server.ranges.append(asked or "whole")
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if asked else 200, content[start:], headers, limit=name == "model.safetensors")

    def _row(self, name: str) -> dict:
        content, found = self.server.files[name], self.server.hashes[name]
        row = {"rfilename": name, "type": "file", "path": name, "size": len(content), "oid": _git_hash(content)}
        return row | (
            {"lfs": {"oid": found, "sha256": found, "size": len(content), "pointerSize": 134}}
            if len(found) == 64
            else {}
        )

    def _send(self, code: int, content: bytes, headers: dict, *, body: bool = True, limit: bool = False) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: self.server.break_after] if limit else content)
        if limit:
            self.server.break_after = None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    save_model(create_model("dolphin"), tmp_path / "model", {"licence": "CC0"})  # larger than what is read at once
    server = Hub(tmp_path / "model")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def load(hub: Hub | None, cache: Path) -> subprocess.CompletedProcess[str]:
    endpoint = f"http://127.0.0.1:{hub.server_port}" if hub else "http://127.0.0.1:9"
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    code = f"import sys; from lipsep.errors import LipsepError\ntry: {LOAD}\nexcept LipsepError as e: sys.exit(str(e))"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def last_line(ran: subprocess.CompletedProcess[str]) -> str:
    assert ran.returncode == 1 and "Traceback" not in ran.stderr, ran.stderr
    return ran.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_an_interrupted_download_goes_on_where_it_broke_off(hub: Hub, tmp_path: Path) -> None:
    n_bytes = len(hub.files["model.safetensors"])
    hub.break_after = n_bytes - 1000
    ran = load(hub, tmp_path / "cache")
    assert ran.returncode == 0 and ran.stdout.strip() == "dolphin", ran.stderr
    first, resumed = hub.ranges
    assert first == "whole" and int(resumed.removeprefix("bytes=").removesuffix("-")) > n_bytes // 2
    assert load(None, tmp_path / "cache").stdout.strip() == "dolphin"  # from then on without a network


@pytest.mark.slow
def test_a_download_that_is_damaged_is_refused_by_its_hash_and_can_be_repeated(hub: Hub, tmp_path: Path) -> None:
    good = hub.files["model.safetensors"]
    hub.files["model.safetensors"] = good[:-1] + bytes([good[-1] ^ 1])  # one bit of one weight: it would load
    line = last_line(load(hub, tmp_path / "cache"))
    assert "model.safetensors" in line and "damaged on the way" in line
    hub.files["model.safetensors"] = good
    assert load(hub, tmp_path / "cache").stdout.strip() == "dolphin"


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path) -> None:
    line = last_line(load(None, tmp_path / "cache"))
    assert f"cannot download '{NAME}'" in line and "pass a folder" in line


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
