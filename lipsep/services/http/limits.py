"""What is checked before a request is looked at: its size and its token."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN_TO_ALL = ("/health", "/openapi.json")


class TooLarge(Exception):
    """More came than was announced or allowed."""


class Gate:
    """ASGI middleware: 401 without the token, 413 for bodies beyond the limit, whether announced or not.

    Args:
        token: what "Authorization: Bearer TOKEN" must say; None lets everybody in.
        max_bytes: of a request's body.
    """

    def __init__(self, app: Any, token: str | None, max_bytes: int) -> None:
        self._app, self._token, self._max_bytes = app, token, max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"")
        wanted = b"Bearer " + (self._token or "").encode()
        if self._token and scope["path"] not in OPEN_TO_ALL and not secrets.compare_digest(given, wanted):
            await _refuse(send, 401, "a token is needed: Authorization: Bearer TOKEN", b"Bearer")
            return
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._max_bytes:
            await self._too_large(send)
            return
        n_bytes, refused = 0, False

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_bytes:
                raise TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal refused
            if n_bytes <= self._max_bytes:
                await send(message)
            elif not refused:  # whatever the application made of TooLarge
                refused = True
                await self._too_large(send)

        with suppress(TooLarge):
            await self._app(scope, counted, watched)

    async def _too_large(self, send: Send) -> None:
        await _refuse(send, 413, f"at most {self._max_bytes / 2**20:g} MB are taken here")


async def _refuse(send: Send, status: int, detail: str, challenge: bytes | None = None) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if challenge:
        headers.append((b"www-authenticate", challenge))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
