"""A server of our own on this machine that plays Zenodo, a repository with Git LFS and its mirror, on bad days too."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lipsep.data.corpora import downloads
from lipsep.system import fetching

BUDGET = "This repository exceeded its LFS budget."


class CorpusServer(ThreadingHTTPServer):
    """What it holds, and how it misbehaves.

    Attributes:
        records: number of a record -> name of a file -> content.
        licence: that the records state.
        clips: path in the repository -> content.
        broke: the repository's own LFS server has no budget left; so has the mirror.
        damage: names of files of which one bit is wrong.
        ends_after: bytes after which the next body breaks off; None: at its end.
        always_ends: so does each one after that.
        stalls_after: bytes after which bodies pause until `wake` is set.
        knows_ranges: whether parts can be asked for.
        block: bytes; parts begin at multiples of it, as some caches do.
        busy: how many of the next requests are answered by 503.
        asked: (path, Range) of all requests for contents.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.records: dict[int, dict[str, bytes]] = {}
        self.licence = "cc-by-4.0"
        self.clips: dict[str, bytes] = {}
        self.broke: tuple[bool, bool] = (False, False)
        self.damage: set[str] = set()
        self.ends_after: int | None = None
        self.always_ends = False
        self.stalls_after: int | None = None
        self.wake = threading.Event()
        self.knows_ranges = True
        self.block = 1
        self.busy = 0
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: CorpusServer

    def do_GET(self) -> None:
        if self.server.busy:
            self.server.busy -= 1
            return self._send(503, b"")
        parts = self.path.strip("/").split("/")
        if parts[:2] == ["api", "records"] and int(parts[2]) in self.server.records:
            files = self.server.records[int(parts[2])]
            if len(parts) == 3:
                return self._send(200, json.dumps(self._record(int(parts[2]), files)).encode())
            if parts[4] in files:
                return self._content(parts[4], files[parts[4]])
        if parts[0] == "archive":
            return self._send(200, pointers(self.server.clips))
        if parts[0] == "objects":
            for path, content in self.server.clips.items():
                if hashlib.sha256(content).hexdigest() == parts[1]:
                    assert self.headers["X-Ticket"] == "7"
                    return self._content(path, content)
        return self._send(404, b"")

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Accept"] == "application/vnd.git-lfs+json" and request["operation"] == "download"
        assert len(request["objects"]) <= 100
        mirror = self.path.startswith("/mirror")
        if self.server.broke[mirror] and not mirror:
            return self._send(403, json.dumps({"message": BUDGET}).encode())
        answers = []
        for wanted in request["objects"]:
            action = {"href": f"{self.server.address}/objects/{wanted['oid']}", "header": {"X-Ticket": "7"}}
            refusal = {"code": 509, "message": "the mirror has no bandwidth left"}
            answer = {"error": refusal} if self.server.broke[mirror] else {"actions": {"download": action}}
            answers.append({**wanted, **answer})
        self._send(200, json.dumps({"transfer": "basic", "objects": answers}).encode())

    def _record(self, number: int, files: Mapping[str, bytes]) -> dict:
        listed = [
            {
                "key": key,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.server.address}/api/records/{number}/files/{key}/content"},
            }
            for key, content in files.items()
        ]
        return {"id": number, "metadata": {"license": {"id": self.server.licence}}, "files": listed}

    def _content(self, name: str, content: bytes) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((name, asked))
        if name in server.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.knows_ranges else 0
        start -= start % server.block
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = len(content) if server.ends_after is None else server.ends_after
        if not server.always_ends:
            server.ends_after = None
        if server.stalls_after is not None:
            self.wfile.write(content[start : server.stalls_after])
            self.wfile.flush()
            server.wake.wait(30)
            start = max(start, server.stalls_after)
        self.wfile.write(content[start:end])

    def _send(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of these."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def pointers(clips: Mapping[str, bytes]) -> bytes:
    """The archive of a repository as GitHub gives it: a pointer in place of each clip, and a text."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        texts = {path: pointer(content) for path, content in clips.items()}
        for path, text in {**texts, "README.md": b"## CREMA-D"}.items():
            member = tarfile.TarInfo(f"CREMA-D-master/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return out.getvalue()


def pointer(content: bytes) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()


SETTINGS = """
from lipsep.data.corpora import downloads
from lipsep.system import fetching
downloads.ZENODO = {address!r}
downloads.CREMA_D_ARCHIVE = {address!r} + "/archive"
downloads.CREMA_D_LFS = ({address!r} + "/own", {address!r} + "/mirror")
fetching.WAIT_S = 0.01
"""
"""What makes a process ask this server; `address` is filled in."""


@contextmanager
def served() -> Iterator[CorpusServer]:
    """A server for as long as the block lasts; this process asks it."""
    server = CorpusServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setattr(downloads, "ZENODO", server.address)
        patch.setattr(downloads, "CREMA_D_ARCHIVE", f"{server.address}/archive")
        patch.setattr(downloads, "CREMA_D_LFS", (f"{server.address}/own", f"{server.address}/mirror"))
        patch.setattr(fetching, "WAIT_S", 0.01)
        yield server
    server.wake.set()
    server.shutdown()
    server.server_close()
