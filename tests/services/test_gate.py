"""What reaches a service at all: hosts, pages of other sites, tokens, sizes, room, requests that never end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
import httpx
from visiting import listening

from lipsep.services import gate, patience
from lipsep.services.gate import FORM_BYTES, Gate, HostNames
from lipsep.services.names import safe_name
from lipsep.services.room import NoRoomError, Room


async def echo(scope: dict, receive: Callable, send: Callable) -> None:
    """An application that answers with the length of what it was sent."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    n_bytes, more = 0, True
    while more:
        message = await receive()
        n_bytes, more = n_bytes + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(n_bytes).encode()})


def ask(names: HostNames, method: str = "GET", **headers: str) -> int:
    """Status of the answer to a request with these headers; _ stands for -."""
    transport = httpx.ASGITransport(Gate(echo, names, 1000))

    async def request() -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            return (await client.request(method, "/x", headers=given)).status_code

    return asyncio.run(request())


@pytest.mark.parametrize(
    ("bound", "more", "host", "status"),
    [
        ("127.0.0.1", (), "localhost:7860", 200),
        ("127.0.0.1", (), "127.0.0.1:7860", 200),
        ("127.0.0.1", (), "[::1]:7860", 200),
        ("127.0.0.1", (), "LOCALHOST.", 200),
        ("127.0.0.1", (), "attacker.example:7860", 403),  # whose DNS record has just become 127.0.0.1
        ("127.0.0.1", (), "localhost.attacker.example", 403),
        ("127.0.0.1", (), "localhost@attacker.example", 403),
        ("127.0.0.1", (), "192.168.0.7:7860", 403),
        ("127.0.0.1", (), "", 403),
        ("127.0.0.1", (), "[::1", 403),
        ("127.0.0.1", ("voices.example",), "voices.example", 200),
        ("127.0.0.1", ("Voices.Example",), "voices.example:443", 200),
        ("127.0.0.1", ("voices.example",), "attacker.example", 403),
        ("0.0.0.0", (), "192.168.0.7:7860", 200),  # an address, behind which no DNS record stands
        ("0.0.0.0", (), "[2001:db8::1]:7860", 200),
        ("0.0.0.0", (), socket.gethostname(), 200),
        ("0.0.0.0", (), "attacker.example", 403),
        ("192.168.0.7", (), "192.168.0.7:8000", 200),
        ("192.168.0.7", (), "localhost:8000", 403),
    ],
)
def test_only_names_of_this_server_are_answered(bound, more, host, status):
    names = HostNames.of(bound, more)
    assert ask(names, host=host) == ask(names, "POST", host=host) == status


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 200),  # curl, other programs
        ("POST", {"origin": "http://localhost"}, 200),
        ("POST", {"origin": "http://localhost:80", "sec_fetch_site": "same-origin"}, 200),
        ("POST", {"origin": "https://attacker.example"}, 403),
        ("POST", {"origin": "http://localhost:3000"}, 403),  # another program's page on this machine
        ("POST", {"origin": "http://localhost.attacker.example"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"sec_fetch_site": "cross-site"}, 403),
        ("DELETE", {"sec_fetch_site": "same-site"}, 403),
        ("DELETE", {"origin": "https://attacker.example"}, 403),
        ("GET", {"origin": "https://attacker.example"}, 403),  # scripts that want to read
        ("GET", {"sec_fetch_site": "cross-site"}, 200),  # a link from elsewhere
        ("GET", {"sec_fetch_site": "none"}, 200),
    ],
)
def test_pages_of_other_sites_change_nothing_and_read_nothing(method, headers, status):
    assert ask(HostNames.of("localhost"), method, **headers) == status


def test_answers_say_that_they_belong_in_no_frame():
    transport = httpx.ASGITransport(Gate(echo, HostNames.of("localhost"), 1000))

    async def request(path: str) -> Any:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path)

    headers = asyncio.run(request("/")).headers
    assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("announced", ["-1", "1e3", "9" * 30, "0x10", ""])
def test_lengths_that_are_none_are_refused(announced):
    assert ask(HostNames.of("localhost"), "POST", content_length=announced) == 413


# --- Room ------------------------------------------------------------------------------------------------------------


def test_room_counts_what_lies_there_and_what_comes(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "bob").mkdir()
    room = Room(tmp_path, 1000, 600, lambda visitor: [tmp_path / visitor])
    (tmp_path / "ann" / "film").write_bytes(bytes(300))
    used = sum(path.lstat().st_size for path in tmp_path.rglob("*"))  # folders too
    room = Room(tmp_path, 1000 + used, 600, lambda visitor: [tmp_path / visitor])
    room.take("ann", 250)
    with pytest.raises(NoRoomError, match="one visitor may have"):
        room.take("ann", 100)
    room.take("bob", 600)
    with pytest.raises(NoRoomError, match="no room for more files"):
        room.take("carla", 200)
    room.give_back("bob", 600)
    room.take("carla", 200)
    (tmp_path / "ann" / "film").unlink()
    room.take("ann", 300)


# --- Requests that do not end ----------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """The address of a server that waits for a second only."""
    monkeypatch.setattr(gate, "PATIENCE_S", 1.0)
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    app = Gate(echo, HostNames.of("127.0.0.1"), 10 * FORM_BYTES)
    with listening(app, http=patience.ImpatientProtocol) as address:
        yield address


def said(connection: socket.socket, within_s: float = 10.0) -> bytes:
    """Everything until the other side closes."""
    connection.settimeout(within_s)
    answer = b""
    while piece := connection.recv(4096):
        answer += piece
    return answer


HEAD = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"


@pytest.mark.parametrize(
    ("begun", "answer"),
    [
        (b"", b""),
        (b"GE", b""),
        (HEAD, b""),
        (HEAD + b"\r\n", b"408"),
        (HEAD + b"\r\nsome of it", b"408"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET / HT", b"200"),  # the second one on this connection
    ],
)
def test_half_sent_requests_are_dropped(impatient, begun, answer):
    host, port = impatient.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(begun)
        assert answer in said(connection)


def test_a_body_that_trickles_in_is_dropped_and_a_slow_honest_one_is_not(impatient, monkeypatch):
    host, port = impatient.removeprefix("http://").split(":")
    monkeypatch.setattr(gate, "SLOWEST_BYTES_PER_S", 10.0)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(HEAD + b"\r\n")
        start_s = time.monotonic()
        with pytest.raises(OSError):
            for _ in range(100):
                connection.sendall(b"x")
                time.sleep(0.2)
        assert time.monotonic() - start_s < 15

    def slowly():
        for _ in range(6):
            yield b"x" * 1000
            time.sleep(0.4)

    assert httpx.post(impatient, content=slowly()).text == "6000"


def test_six_hundred_half_sent_requests_hold_up_nobody(impatient):
    host, port = impatient.removeprefix("http://").split(":")
    with ExitStack() as stack, ThreadPoolExecutor(20) as pool:

        def open_one(k: int) -> socket.socket:
            connection = socket.create_connection((host, int(port)))
            connection.sendall((HEAD + b"\r\nsome") if k % 2 else HEAD)
            return connection

        connections = [stack.enter_context(c) for c in pool.map(open_one, range(600))]
        start_s = time.monotonic()
        assert httpx.get(f"{impatient}/health", timeout=30).status_code == 200
        assert time.monotonic() - start_s < 4  # it took 8 s once
        assert all(said(connection) or k % 2 == 0 for k, connection in enumerate(connections))


# --- Names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../../evil.mp4", "evil.mp4"),
        ("C:\\Users\\me\\film.mov", "film.mov"),
        ("a\0b\n.mp4", "a_b_.mp4"),
        ("", "video"),
        ("...", "video"),
        (".mp4", "mp4"),
        ("CON:|<>*?.mp4", "CON______.mp4"),
        ("\u202etxt.4pm", "_txt.4pm"),
    ],
)
def test_names_become_names_that_every_system_takes(given, kept):
    assert safe_name(given) == kept


@pytest.mark.parametrize("sign", ["x", "\u00e9", "\u65e5", "\U0001d54f"])  # 1, 2, 3 and 4 bytes
def test_long_names_are_cut_by_bytes_and_keep_their_ending(sign, tmp_path):
    name = safe_name(sign * 255 + ".mp4")
    assert name.endswith(".mp4") and 190 < len(name.encode()) <= 200
    Path(tmp_path / name).write_bytes(b"")
    assert len(safe_name("x." + sign * 255).encode()) <= 200
