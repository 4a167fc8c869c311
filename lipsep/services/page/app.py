"""The page itself: Gradio for uploading, waiting and showing; separation runs in processes of its own."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipsep.separation.options import Options

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import fastapi
import gradio

from lipsep.services.gate import FORM_BYTES, LOCAL_NAMES, Gate, HostNames
from lipsep.services.page.door import Door, visitor_of
from lipsep.services.page.pieces import failure_html, people_html, player_html, progress_html
from lipsep.services.page.uploads import Uploads
from lipsep.services.page.visitors import Visit, Visits
from lipsep.services.process import OPENING_LIMIT_S, SHORT_GRACE_S, Outcome, WorkerProcess, memory_for_each
from lipsep.services.room import Room
from lipsep.system.outputs import PrivateFolder

_HERE = Path(__file__).parent
_LOOK_EVERY_S = 60.0  # for files that nobody uses any more
FONTS = ("system-ui", "sans-serif")  # of the visitor's own system: none is fetched
GONE = "this is no file that you have sent here, or not any more: drop it again"
TITLE = "lipsep: one voice per person"


@dataclass(frozen=True)
class Limits:
    """What visitors may ask for."""

    upload_mb: float = 500.0
    duration_s: float = 600.0
    n_waiting: int = 20  # visitors in the queue; more are told to come back later
    time_limit_s: float = 1800.0  # for one separation
    keep_s: float = 3600.0  # results are removed when unused for so long
    visitor_mb: float = 2_000.0  # uploads and results together
    disk_mb: float = 20_000.0  # of all visitors


def create_app(
    model: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    n_jobs: int = 1,
    limits: Limits = Limits(),
    names: HostNames = LOCAL_NAMES,
) -> fastapi.FastAPI:
    """The web page as an application for uvicorn. Its files live in a private temporary folder until it ends; what a
    page that was killed has left is removed at the next start.

    Args:
        model, device, threads: see `lipsep.services.opening.open_separator`.
        n_jobs: separations at a time; the other visitors wait in the order in which they came.
        names: under which the server is addressed.

    Raises:
        ModelError: the model cannot be loaded. OutputError: there is no room for temporary files.
    """
    private = PrivateFolder("lipsep-web-")
    (private.path / "uploads").mkdir()
    (private.path / "visits").mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(private.path / "uploads")
    max_bytes = int(limits.upload_mb * 2**20)
    uploads, visits = Uploads(private.path / "uploads", max_bytes), Visits(private.path / "visits", limits.keep_s)
    workers: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
    memory = {"memory_bytes": memory_for_each(n_jobs), "grace_s": SHORT_GRACE_S}
    all_workers = [WorkerProcess(model, device, threads, **memory) for _ in range(n_jobs)]
    for worker in all_workers:
        workers.put(worker)
    ended = threading.Event()

    def close() -> None:
        """End everything, from whatever thread, as often as it is called."""
        ended.set()
        visits.stop()
        with ThreadPoolExecutor(n_jobs) as pool:  # side by side: each may take its time of grace
            list(pool.map(WorkerProcess.close, all_workers))
        private.remove()

    try:
        all_workers[0].start()
    except BaseException:
        close()
        raise

    @asynccontextmanager
    async def lifespan(_: fastapi.FastAPI):
        def sweep() -> None:
            while not ended.wait(_LOOK_EVERY_S):
                visits.sweep()
                uploads.sweep(limits.keep_s)

        threading.Thread(target=sweep, daemon=True).start()
        yield
        close()

    app = fastapi.FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    app.state.close = close

    @app.post("/gradio_api/upload")  # before Gradio's own, which keeps files of all visitors in one place
    async def upload_file(request: fastapi.Request, upload_id: str = "") -> list[str]:
        return [str(await uploads.take(request, request.state.visitor, upload_id))]

    @app.get("/gradio_api/upload_progress")
    def upload_progress(request: fastapi.Request, upload_id: str) -> fastapi.Response:
        events = uploads.progress(request.state.visitor, upload_id)
        return fastapi.responses.StreamingResponse(events, media_type="text/event-stream")

    @app.get("/results/{key}/everything.zip")
    def everything(key: str, request: fastapi.Request) -> fastapi.Response:
        pieces = visits.zipped(key, dict(request.query_params))
        if pieces is None:
            raise fastapi.HTTPException(404, "there is nothing here, or not any more")
        headers = {"Content-Disposition": 'attachment; filename="lipsep.zip"', "Cache-Control": "private, no-store"}
        return fastapi.responses.StreamingResponse(pieces, media_type="application/zip", headers=headers)

    @app.get("/results/{key}/{name}")
    def result(key: str, name: str) -> fastapi.Response:
        path = visits.file(key, name)
        if path is None:
            raise fastapi.HTTPException(404, "there is nothing here, or not any more")
        return fastapi.responses.FileResponse(path, headers={"Cache-Control": "private, no-store"})

    def separate(upload: str | None, as_recorded: bool, request: gradio.Request) -> Iterator[tuple[str, str, str]]:
        """Progress, faces and player, again and again while a visitor's video is separated."""
        if upload is None:
            return
        visitor = request.request.state.visitor
        own = uploads.own(visitor, upload)
        visit = visits.begin(visitor, request.session_hash)
        source = uploads.hand_over(own, visit.folder) if own else None
        if source is None:
            yield failure_html(GONE), "", ""
            return
        worker = _free(workers, ended)
        if worker is None:
            return
        try:
            yield from _run(worker, visit, source, "original" if as_recorded else "16k", limits)
        finally:
            visit.stop.set()
            workers.put(worker)

    def leave(request: gradio.Request) -> None:
        visits.end(request.request.state.visitor, request.session_hash)

    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(
            "# lipsep\nDrop a video of people who talk at once. Everyone who is visible gets a voice of their own. "
            f"Your file stays on this machine and is removed after use. At most {limits.upload_mb:g} MB and "
            f"{limits.duration_s / 60:.3g} minutes."
        )
        upload = gradio.File(label="Video", file_count="single", elem_id="lipsep-upload")
        as_recorded = gradio.Checkbox(
            label="Voices at the rate and with the channels of the recording, not 16 kHz mono (choose first)"
        )
        progress, people, player = gradio.HTML(), gradio.HTML(), gradio.HTML()
        upload.upload(
            separate, [upload, as_recorded], [progress, people, player], api_name=False, concurrency_limit=n_jobs
        )
        page.unload(leave)
    page.queue(max_size=limits.n_waiting, default_concurrency_limit=n_jobs, api_open=False)
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=max_bytes,  # told to the page, which does not begin to send more
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gradio.themes.Base(font=list(FONTS), font_mono=["monospace"]),
        css_paths=[_HERE / "page.css"],
        head=f"<script>{(_HERE / 'player.js').read_text(encoding='utf-8')}</script>",
    )
    # a mounted page does not say so by itself; until then Gradio takes every path of the machine for one of its own
    page.has_launched = page.is_running = True
    n_inputs = {number: len(function.inputs) for number, function in page.fns.items()}
    app.add_middleware(Door, n_inputs=n_inputs, is_own=lambda visitor, path: uploads.own(visitor, path) is not None)
    room = Room(
        private.path,
        int(limits.disk_mb * 2**20),
        int(limits.visitor_mb * 2**20),
        lambda visitor: [uploads.folder_of(visitor), *visits.folders_of(visitor)],
    )
    app.add_middleware(Gate, names=names, max_bytes=max_bytes + FORM_BYTES, room=room, visitor_of=visitor_of)
    return app


def _free(workers: queue.SimpleQueue[WorkerProcess], ended: threading.Event) -> WorkerProcess | None:
    """The next process without work; None if the page ends before there is one."""
    while not ended.is_set():
        with suppress(queue.Empty):
            return workers.get(timeout=0.5)
    return None


def _run(
    worker: WorkerProcess, visit: Visit, source: Path, rate: str, limits: Limits
) -> Iterator[tuple[str, str, str]]:
    shown = {"progress": progress_html("read", 0, None), "people": "", "player": ""}
    changed: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_separate, worker, visit, source, rate, limits, changed)
        try:
            while not running.done():
                yield tuple(shown.values())
                with suppress(queue.Empty):
                    shown |= changed.get(timeout=0.3)
                    while True:
                        shown |= changed.get_nowait()
        finally:
            visit.stop.set()  # the visitor has left, or it is done
    while not changed.empty():
        shown |= changed.get()
    shown |= _shown_at_end(visit, running.result())
    yield tuple(shown.values())


def _separate(
    worker: WorkerProcess,
    visit: Visit,
    source: Path,
    rate: str,
    limits: Limits,
    changed: queue.SimpleQueue[dict[str, str]],
) -> Outcome:
    results = visit.folder / "results"
    outcome = worker.separate(
        source,
        results,
        Options.from_environment(rate=rate, name=()),  # the page names files itself
        progress=lambda *step: changed.put({"progress": progress_html(*step)}),
        on_faces=lambda people: changed.put({"people": people_html(people)}),
        stop=visit.stop,
        time_limit_s=limits.time_limit_s,
        opening_limit_s=OPENING_LIMIT_S,
        max_duration_s=limits.duration_s,
        original=results / "original.wav",
    )
    source.unlink(missing_ok=True)
    return outcome


def _shown_at_end(visit: Visit, outcome: Outcome) -> dict[str, Any]:
    if outcome.status == "done":
        return {"progress": "", "player": player_html(visit.key, outcome.report)}
    return {"progress": failure_html(outcome.message or "stopped"), "people": ""}
