"""Files from the network: a download that breaks off goes on where it was, and a file appears checked or not at all."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lipsep.errors import DownloadError
from lipsep.system.outputs import PARTIAL
from lipsep.version import __version__

TIMEOUT_S = 30.0  # without a byte
TRIES = 5  # in a row that bring nothing new
WAIT_S = 1.0  # after the first of them, then twice as long each time
BLOCK = 2**20  # bytes
LARGEST_REPLY = 2**26  # bytes of an answer that is read as a whole
_COME_BACK = {408, 425, 429, 500, 502, 503, 504}  # statuses of servers that are busy
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")

Arrived = Callable[[int], None]
"""arrived(n_bytes): how much of a file is there; called often, and may raise to stop."""


@dataclass(frozen=True)
class RemoteFile:
    """A file somewhere, and how to know that it is the right one.

    Attributes:
        name: what to call it.
        url: http or https.
        size: bytes.
        checksum: ``md5:`` or ``sha256:`` and the digest in hexadecimal.
        headers: that its server asks for.
    """

    name: str
    url: str
    size: int
    checksum: str
    headers: Mapping[str, str] = field(default_factory=dict)


def open_client() -> httpx.Client:
    """One for many requests, by several threads. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY)."""
    # compressed bodies would have other lengths and ranges than their files
    headers = {"User-Agent": f"lipsep/{__version__}", "Accept-Encoding": "identity"}
    return httpx.Client(follow_redirects=True, timeout=TIMEOUT_S, headers=headers)


def ask(client: httpx.Client, method: str, url: str, **request: Any) -> bytes:
    """The body of an answer; tried again where the network or the server fails for the moment.

    Raises:
        DownloadError: there is no answer, another than 200, or one longer than `LARGEST_REPLY`.
    """
    body = bytearray()

    def read() -> None:
        body.clear()
        with client.stream(method, url, **request) as response:
            _check_status(response, url)
            for block in response.iter_bytes(BLOCK):
                body.extend(block)
                if len(body) > LARGEST_REPLY:
                    raise DownloadError(f"{_host(url)} answers with more than {LARGEST_REPLY >> 20} MiB at {url}")

    _again_and_again(read, lambda: 0, url)
    return bytes(body)


def fetch(client: httpx.Client, file: RemoteFile, path: Path, arrived: Arrived) -> None:
    """Download a file to `path`, from where an earlier call was cut off.

    What has arrived is kept in a hidden file beside `path`; that file becomes `path` once size and checksum are right.

    Raises:
        DownloadError: the network or the server fails for good, or what came is not what was announced.
        OSError: the disk refuses.
    """
    part = partial(path)

    def there() -> int:
        return part.stat().st_size if part.exists() else 0

    def go_on() -> None:
        if there() < file.size:
            _receive(client, file, part, there(), arrived)
        if there() < file.size:
            raise httpx.ReadError(f"{there()} of {file.size} bytes came")

    if there() > file.size:
        part.unlink()
    _again_and_again(go_on, there, file.url)
    _check(part, file, arrived)
    part.replace(path)


def partial(path: Path) -> Path:
    """Where the beginning of an unfinished download to `path` lies."""
    return path.with_name(f".{path.name}{PARTIAL}")


def _receive(client: httpx.Client, file: RemoteFile, part: Path, have: int, arrived: Arrived) -> None:
    """Append what is missing; begin anew where the server does not know ranges, or answers with another one."""
    ranged = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", file.url, headers={**file.headers, **ranged}) as response:
        if have and response.status_code == 416:
            part.unlink()
            raise httpx.ReadError(f"there is nothing behind byte {have}")
        _check_status(response, file.url)
        told = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        start = int(told[1]) if response.status_code == 206 and told else 0
        if start > have or (response.status_code == 206 and not told):
            part.unlink(missing_ok=True)
            raise httpx.ReadError("another part came than was asked for")
        have = start  # some caches begin earlier than they are asked to
        with part.open("r+b" if have else "wb") as out:
            out.seek(have)
            out.truncate()
            for block in response.iter_raw(BLOCK):
                have += len(block)
                if have > file.size:
                    break
                out.write(block)
                arrived(have)
    if have > file.size:
        part.unlink()
        raise DownloadError(f"{_host(file.url)} sends more of '{file.name}' than the {file.size} bytes announced")


def _check(part: Path, file: RemoteFile, arrived: Arrived) -> None:
    algorithm, _, announced = file.checksum.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with part.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
            arrived(file.size)  # large files take a while, and may be stopped
    if digest.hexdigest() != announced:
        part.unlink()
        raise DownloadError(
            f"'{file.name}' was damaged on the way ({algorithm} {digest.hexdigest()[:12]}, announced "
            f"{announced[:12]}): it is removed, the same command fetches it again"
        )


def _again_and_again(attempt: Callable[[], None], progress: Callable[[], int], url: str) -> None:
    """Try until it works, or until nothing new has come `TRIES` times in a row."""
    failures, before = 0, progress()
    while True:
        try:
            attempt()
            return
        except httpx.InvalidURL:
            raise DownloadError(f"'{url}' is no address of the network") from None
        except (httpx.RequestError, _Busy) as error:
            failures = 1 if progress() > before else failures + 1
            before = progress()
            if failures >= TRIES:
                raise DownloadError(_lost(url, error)) from error
        time.sleep(WAIT_S * 2 ** (failures - 1))


def _lost(url: str, error: Exception) -> str:
    if isinstance(error, _Busy):
        return f"{_host(url)} is busy (HTTP {error}): run the same command later, it goes on from here"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"{_host(url)} cannot be reached ({error}): check the network, then run the same command again"
    return f"the connection to {_host(url)} broke off ({error}): the same command goes on from here"


class _Busy(Exception):
    """A server asks to come back."""


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in _COME_BACK:
        raise _Busy(status)
    if status in (404, 410):
        raise DownloadError(f"there is nothing at {url} (HTTP {status}): it has been moved or taken away")
    if status not in (200, 206):
        raise DownloadError(f"{_host(url)} refuses {url} (HTTP {status} {response.reason_phrase})")


def _host(url: str) -> str:
    return httpx.URL(url).host or url
