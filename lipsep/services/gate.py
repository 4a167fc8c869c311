"""What is checked before a request is looked at: where it was sent, from which page, its token, size and pace."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lipsep.services.room import NoRoomError, Room

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN_TO_ALL = ("/health", "/openapi.json")
FORM_BYTES = 2**16  # of a request around the file, or of one without a file
PATIENCE_S = 20.0  # without a byte of a request
SLOWEST_BYTES_PER_S = 1000.0  # on average, after PATIENCE_S
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CHANGING = ("POST", "PUT", "PATCH", "DELETE")
_HEADERS = [  # of every answer: taken for what it says it is, shown in no frame, its address told to nobody
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(frozen=True)
class HostNames:
    """The names under which a server may be addressed. Others are those of a site that a browser was led here from."""

    names: frozenset[str]
    any_address: bool = False  # every IP address: no DNS record stands behind one

    @classmethod
    def of(cls, host: str, more: Iterable[str] = ()) -> HostNames:
        """Those of a server that listens at `host`, and more that a reverse proxy or the local network give it."""
        everywhere = host in ("", "0.0.0.0", "::")
        names = {host, *more}
        if everywhere or host in _LOOPBACK:
            names |= {*_LOOPBACK}
        if everywhere:
            names |= {socket.gethostname(), socket.getfqdn()}
        return cls(frozenset(name.lower().strip("[].") for name in names if name), everywhere)

    def __contains__(self, header: str) -> bool:
        """Whether a Host header, with or without a port, is one of them."""
        try:
            name = (urlsplit(f"//{header}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self.names or (self.any_address and _is_address(name))


LOCAL_NAMES = HostNames.of("localhost")


class _RefusedError(Exception):
    """The rest of a body is not waited for."""


class Gate:
    """ASGI middleware that answers, in place of the application, requests which it should not see.

    403 for those sent to another name than the server's own (DNS rebinding) or by a page of another site, 401 without
    the token, 413 for bodies beyond the limit, whether announced or not, 507 where they would find no room, 408 for
    those that do not arrive.

    Args:
        names: under which the server is addressed.
        max_bytes: of a request's body.
        token: what "Authorization: Bearer TOKEN" must say; None lets everybody in.
        room: what visitors may store; None: nobody counts.
        visitor_of: who sends a request, for `room`.
    """

    def __init__(
        self,
        app: Any,
        names: HostNames,
        max_bytes: int,
        token: str | None = None,
        room: Room | None = None,
        visitor_of: Callable[[Message], str] = lambda scope: (scope.get("client") or ("",))[0],
    ) -> None:
        self._app, self._names, self._token, self._max_bytes = app, names, token, max_bytes
        self._room, self._visitor_of = room, visitor_of

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = dict(scope["headers"])
        refusal = self._refusal(scope, headers)
        if refusal:
            await _refuse(send, *refusal)
            return
        n_bytes = self._announced(headers)
        if self._room is None or n_bytes <= FORM_BYTES:
            await self._pass(scope, receive, send, n_bytes > 0)
            return
        visitor = self._visitor_of(scope)
        try:
            await asyncio.to_thread(self._room.take, visitor, n_bytes)
        except NoRoomError as error:
            await _refuse(send, 507, str(error))
            return
        try:
            await self._pass(scope, receive, send, True)
        finally:
            self._room.give_back(visitor, n_bytes)

    def _refusal(self, scope: Message, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Status and sentence for a request that goes no further."""
        host = headers.get(b"host", b"").decode("latin-1")
        if host not in self._names:
            return 403, f"this server does not go by the name '{host}'; who runs it can add the name"
        if _is_foreign(scope, headers, host):
            return 403, "a page of another site sent this: open this server's own page"
        given = headers.get(b"authorization", b"")
        wanted = b"Bearer " + (self._token or "").encode()
        if self._token and scope["path"] not in OPEN_TO_ALL and not secrets.compare_digest(given, wanted):
            return 401, "a token is needed: Authorization: Bearer TOKEN"
        if self._announced(headers) > self._max_bytes:
            return self._too_large()
        return None

    def _announced(self, headers: dict[bytes, bytes]) -> int:
        """Bytes of the body; the most that are allowed where it is sent without saying, more where it says nonsense."""
        if b"transfer-encoding" in headers:
            return self._max_bytes
        announced = headers.get(b"content-length", b"0")
        return int(announced) if announced.isdigit() and len(announced) < 20 else self._max_bytes + 1

    def _too_large(self) -> tuple[int, str]:
        return 413, f"at most {self._max_bytes / 2**20:g} MB are taken here"

    async def _pass(self, scope: Message, receive: Receive, send: Send, has_body: bool) -> None:
        n_bytes, start_s, more = 0, time.monotonic(), has_body
        refusal: tuple[int, str] | None = None
        refused = False

        async def counted() -> Message:
            nonlocal n_bytes, more, refusal
            if not more:  # what comes now is that the visitor has left, and that may take hours
                return await receive()
            left_s = start_s + PATIENCE_S + n_bytes / SLOWEST_BYTES_PER_S - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, min(left_s, PATIENCE_S)))
            except (TimeoutError, asyncio.TimeoutError):  # two kinds before Python 3.11
                refusal = 408, f"the rest of the request did not come within {PATIENCE_S:g} s: send it again"
                raise _RefusedError from None
            n_bytes += len(message.get("body", b""))
            more = message.get("more_body", False)
            if n_bytes > self._max_bytes:
                refusal = self._too_large()
                raise _RefusedError
            return message

        async def watched(message: Message) -> None:
            nonlocal refused
            if refusal is None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
                await send(message)
            elif not refused:  # whatever the application made of it
                refused = True
                await _refuse(send, *refusal)

        try:
            await self._app(scope, counted, watched)
        except _RefusedError:
            if not refused:
                await _refuse(send, *refusal)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_foreign(scope: Message, headers: dict[bytes, bytes], host: str) -> bool:
    """Whether a browser says that a page of another site is behind the request: other programs say nothing."""
    origin = headers.get(b"origin")
    if origin is not None:
        return _site(origin.decode("latin-1").rpartition("//")[2]) != _site(host)
    return scope["method"] in _CHANGING and headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")


def _site(host: str) -> str:
    """Without the ports that browsers leave out."""
    return host.lower().removesuffix(":80").removesuffix(":443")


async def _refuse(send: Send, status: int, detail: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close"), *_HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
