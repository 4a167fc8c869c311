"""A web page that runs in this process, and a visitor of it without a browser."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx")
import httpx

PATIENCE_S = 240.0


@contextmanager
def listening(app: Any, **options: Any) -> Iterator[str]:
    """The address of an application that uvicorn serves in a thread."""
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", **options))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        running.force_exit = True
        thread.join(30)


@contextmanager
def running_page(model: Path, **limits: Any) -> Iterator[str]:
    """The address of the page with this model and limits."""
    pytest.importorskip("gradio", reason="needs pip install 'lipsep[web]'")
    from lipsep.services.page.app import Limits, create_app

    app = create_app(str(model), "cpu", 1, 1, Limits(**limits))
    with listening(app) as address:
        yield address
    app.state.close()


class Visitor:
    """Uploads and listens as the page's own script does."""

    def __init__(self, address: str) -> None:
        self.http = httpx.Client(base_url=address, timeout=PATIENCE_S)
        self.session = uuid.uuid4().hex
        config = self.http.get("/config").json()
        buttons = [each for each in config["dependencies"] if [t[1] for t in each["targets"]] == ["click"]]
        clicks = {len(each["inputs"]): each["id"] for each in buttons}
        self.function, self.cancelling = clicks[4], clicks[0]

    def upload(self, name: str, content: bytes) -> httpx.Response:
        return self.http.post("/gradio_api/upload", files={"files": (name, content)})

    def join(self, path: Any, track: str = "auto", as_recorded: bool = False, film: bool = False, **more: Any):
        """Ask for the separation of a file by its path."""
        file = {"path": path, "meta": {"_type": "gradio.FileData"}, **more}
        return self._ask(self.function, [file, track, as_recorded, film])

    def cancel(self) -> httpx.Response:
        return self._ask(self.cancelling, [])

    def _ask(self, function: int, data: list[Any]) -> httpx.Response:
        order = {"data": data, "fn_index": function, "session_hash": self.session}
        return self.http.post("/gradio_api/queue/join", json=order)

    def shown(self, begun: Callable[[], Any] = lambda: None) -> list[str]:
        """What the page shows, joined for each of its states, until it is finished; `begun` is called at the first."""
        states: list[str] = []
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as events:
            for line in events.iter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line[6:])
                if event["msg"] in ("process_generating", "process_completed"):
                    assert event["success"], event
                    if not states:
                        begun()
                    states.append(json.dumps(event["output"].get("data")))
                if event["msg"] == "process_completed" and event["output"].get("data"):  # cancelling shows nothing
                    break
        return [state for state in states if "lipsep-" in state]  # others are about buttons alone

    def separate(self, name: str, content: bytes, **asked: Any) -> list[str]:
        """Send a file and have it separated; what is shown meanwhile."""
        (path,) = self.upload(name, content).json()
        self.join(path, orig_name=name, **asked).raise_for_status()
        return self.shown()


def result_key(shown: list[str]) -> str:
    """The address of the results in what the page shows."""
    return next(found[1] for text in shown if (found := re.search(r"results/([\w-]{32})", text)))
