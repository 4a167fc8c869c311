"""Who a visitor is, and which of Gradio's routes are open: those that the page uses, with what it sends itself."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import parse_qs

from lipsep.services.gate import FORM_BYTES, Message, Receive, Send

COOKIE = "lipsep_visitor"
_JOIN, _DATA, _HEARTBEAT = "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/heartbeat/"
_OPEN = {
    "GET": re.compile(
        r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|results)/.+|"
        r"/gradio_api/(theme\.css|startup-events|info/?|upload_progress|queue/data|heartbeat/\w+)"
    ),
    "POST": re.compile(r"/gradio_api/(upload|queue/join)"),
}
_OPEN["HEAD"] = _OPEN["GET"]
_WITH_QUERY = re.compile(r"/results/.+|/gradio_api/(upload|upload_progress|queue/data)")
_MAX_SESSIONS = 10_000  # a page that is open is a session
_GIVEN = re.compile(rb"(?:^|;\s*)" + COOKIE.encode() + rb"=([\w-]{32})\s*(?:;|$)")


class Door:
    """ASGI middleware before Gradio: 404 for every route that the page does not need, 403 for what is not one's own.

    A visitor is known by a cookie; `scope["state"]["visitor"]` is the hash of it. Gradio's sessions, whose numbers the
    page itself draws, belong to the visitor who uses them first.

    Args:
        n_inputs: of each of the page's functions, by its number.
        is_own: whether a path is a file that a visitor has sent.
        words: that the page's choices send.
    """

    def __init__(
        self, app: Any, n_inputs: Mapping[int, int], is_own: Callable[[str, str], bool], words: Collection[str] = ()
    ) -> None:
        self._app, self._n_inputs, self._is_own, self._words = app, n_inputs, is_own, words
        self._visitors: OrderedDict[str, str] = OrderedDict()  # by session

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, open_here = scope["path"], _OPEN.get(scope["method"])
        if open_here is None or not open_here.fullmatch(path):
            await _answer(send, 404, "there is nothing here")
            return
        headers = dict(scope["headers"])
        found = _GIVEN.search(headers.get(b"cookie", b""))
        if scope["method"] == "POST" and not found:
            await _answer(send, 403, "cookies are needed to tell visitors apart: allow them, and load the page again")
            return
        cookie = found[1].decode() if found else secrets.token_urlsafe(24)
        visitor = visitor_of(scope) if found else _hashed(cookie)
        scope = {**scope, "state": {**scope.get("state", {}), "visitor": visitor}}
        if not _WITH_QUERY.fullmatch(path):
            scope["query_string"] = b""  # deep links, among others
        if path == _JOIN:
            body = await _whole(receive)
            order = self._checked(body, visitor)
            if isinstance(order, str):
                await _answer(send, 403, order)
                return
            receive = _again(json.dumps(order).encode(), receive)
        elif path == _DATA or path.startswith(_HEARTBEAT):
            asked = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])
            session = asked[0] if path == _DATA else path.removeprefix(_HEARTBEAT)
            if path == _DATA and session not in self._visitors:
                await _answer(send, 404, "nothing was asked for in this session")
                return
            if not self._owns(visitor, session):
                await _answer(send, 403, "this session is another visitor's: load the page again")
                return

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and not found:
                secure = "; Secure" if scope.get("scheme") == "https" else ""
                value = f"{COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Lax{secure}".encode()
                message = {**message, "headers": [*message.get("headers", []), (b"set-cookie", value)]}
            await send(message)

        await self._app(scope, receive, with_cookie)

    def _is_word(self, value: Any) -> bool:
        return isinstance(value, str) and value in self._words

    def _owns(self, visitor: str, session: str) -> bool:
        owner = self._visitors.setdefault(session, visitor)
        self._visitors.move_to_end(session)
        if len(self._visitors) > _MAX_SESSIONS:
            self._visitors.popitem(last=False)
        return owner == visitor

    def _checked(self, body: bytes, visitor: str) -> dict[str, Any] | str:
        """An order to the page's functions with nothing in it but what the page sends, or what is wrong with it."""
        try:
            order = json.loads(body)
            data, function, session = order["data"], order["fn_index"], order["session_hash"]
            right = type(function) is int and len(data) == self._n_inputs[function] and re.fullmatch(r"\w+", session)
        except (ValueError, KeyError, TypeError, RecursionError):
            right = False
        if not right or len(session) > 64:
            return "this is not what the page sends: load it again"
        if not self._owns(visitor, session):
            return "this session is another visitor's: load the page again"
        cleaned: list[Any] = []
        for value in data:
            if isinstance(value, dict):
                path = value.get("path")
                if not isinstance(path, str) or not self._is_own(visitor, path):
                    return "this is no file that you have sent here, or not any more: drop it again"
                value = {"path": path, "orig_name": path.rpartition("/")[2], "meta": {"_type": "gradio.FileData"}}
            elif value is not None and not isinstance(value, bool) and not self._is_word(value):
                return "this is not what the page sends: load it again"
            cleaned.append(value)
        trigger = order.get("trigger_id")
        kept = {"data": cleaned, "fn_index": function, "session_hash": session}
        return {**kept, "trigger_id": trigger if type(trigger) is int else None}


def visitor_of(scope: Message) -> str:
    """Who sends a request: the hash of the cookie; the same for all who have none yet."""
    found = _GIVEN.search(dict(scope["headers"]).get(b"cookie", b""))
    return _hashed(found[1].decode() if found else "")


def _hashed(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()[:32]


async def _whole(receive: Receive) -> bytes:
    """The body; more than FORM_BYTES is not kept."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":  # the visitor has left
            return b""
        body += message.get("body", b"") if len(body) <= FORM_BYTES else b""
        more = message.get("more_body", False)
    return body if len(body) <= FORM_BYTES else b""


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _answer(send: Send, status: int, detail: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
