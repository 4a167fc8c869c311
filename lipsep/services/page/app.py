"""The page itself: Gradio for uploading, waiting and showing; separation runs in processes of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipsep.separation.options import Options

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import fastapi
import gradio

from lipsep.services.gate import FORM_BYTES, LOCAL_NAMES, Gate, HostNames
from lipsep.services.page.door import Door, visitor_of
from lipsep.services.page.line import Line
from lipsep.services.page.pace import Pace
from lipsep.services.page.pieces import (
    failure_html,
    note_html,
    people_html,
    player_html,
    progress_html,
    waiting_html,
)
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
FULL = "too many visitors are waiting here: come back in a while"
TRACKS = {  # which sound of the recording, as the page's choices say it and as `Options` does
    "chosen by itself": "auto",
    "all sound tracks together": "mix",
    **{f"sound track {n}": str(n) for n in range(1, 9)},
}
_TOLD_EVERY_S = 0.5


@dataclass(frozen=True)
class Limits:
    """What visitors may ask for."""

    upload_mb: float = 500.0
    duration_s: float = 600.0
    n_waiting: int = 20  # visitors in line; more are told to come back later
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
    memory = {"memory_bytes": memory_for_each(n_jobs), "grace_s": SHORT_GRACE_S}
    all_workers = [WorkerProcess(model, device, threads, **memory) for _ in range(n_jobs)]
    line = Line(all_workers, limits.n_waiting)
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

    @app.get("/results/{key}/remix.wav")
    def remix(key: str, request: fastapi.Request) -> fastapi.Response:
        made = visits.remix(key, dict(request.query_params))
        if made is None:
            raise fastapi.HTTPException(404, "there is nothing here, or not any more")
        headers = {"Content-Disposition": 'attachment; filename="remix.wav"', "Content-Length": str(made.n_bytes)}
        headers["Cache-Control"] = "private, no-store"
        return fastapi.responses.StreamingResponse(made.pieces, media_type="audio/wav", headers=headers)

    @app.get("/results/{key}/{name}")
    def result(key: str, name: str) -> fastapi.Response:
        path = visits.file(key, name)
        if path is None:
            raise fastapi.HTTPException(404, "there is nothing here, or not any more")
        return fastapi.responses.FileResponse(path, headers={"Cache-Control": "private, no-store"})

    def separate(
        upload: str | None, track: str, as_recorded: bool, film: bool, request: gradio.Request
    ) -> Iterator[dict[Any, Any]]:
        """Progress, faces and desk, again and again while a visitor's video is separated."""
        if upload is None:
            yield {progress: note_html("Choose a video first.")}
            return
        visitor = request.request.state.visitor
        own = uploads.own(visitor, upload)
        visit = visits.begin(visitor, request.session_hash)
        visit.upload = own
        source = uploads.hand_over(own, visit.folder) if own else None
        if source is None:
            yield {progress: failure_html(GONE), people: "", player: ""}
            return
        try:
            asked = Options.from_environment(
                name=(),  # the page names files itself
                audio_track=track,
                rate="original" if as_recorded else "16k",
                tracks="mp4" if film else "none",
            )
            yield {people: "", player: "", start: gradio.update(interactive=False), cancel: gradio.update(visible=True)}
            for shown in _shown(line, visit, source, asked, limits, ended):
                yield {outputs[name]: value for name, value in shown.items()}
        finally:
            visit.stop.set()
            uploads.take_back(source, own)  # to be separated once more, in another way
        yield {start: gradio.update(interactive=True), cancel: gradio.update(visible=False)}

    def stop(request: gradio.Request) -> None:
        visits.stop_session(request.request.state.visitor, request.session_hash)

    def leave(request: gradio.Request) -> None:
        for sent in visits.end(request.request.state.visitor, request.session_hash):
            uploads.remove(sent)

    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.HTML(
            '<header class="lipsep-head"><h1>lipsep</h1><p>Choose a video of people who talk at once. Everyone who is '
            "visible gets a voice of their own, to be turned up, down or off.</p><p><small>Your file stays on this "
            f"machine and is removed when you leave. At most {limits.upload_mb:g} MB and {limits.duration_s / 60:.3g} "
            "minutes.</small></p></header>"
        )
        upload = gradio.File(label="Video", file_count="single", elem_id="lipsep-upload", height=140)
        with gradio.Accordion("Settings", open=False):
            track = gradio.Dropdown([*TRACKS.items()], value="auto", label="Sound of the recording")
            as_recorded = gradio.Checkbox(label="Voices at the rate and with the channels of the recording")
            film = gradio.Checkbox(label="For editors: also one film with a sound track per person")
        with gradio.Row(elem_classes="lipsep-buttons"):
            start = gradio.Button("Separate the voices", variant="primary", elem_id="lipsep-start")
            cancel = gradio.Button("Cancel", visible=False, elem_id="lipsep-cancel")
        progress, people, player = (gradio.HTML(elem_classes="lipsep-shown") for _ in range(3))
        outputs = {"progress": progress, "people": people, "player": player}
        start.click(
            separate,
            [upload, track, as_recorded, film],
            [progress, people, player, start, cancel],
            api_name=False,
            show_progress="hidden",
            concurrency_limit=n_jobs + limits.n_waiting,
        )
        cancel.click(stop, None, None, api_name=False, show_progress="hidden", concurrency_limit=None)
        page.unload(leave)
    page.queue(max_size=n_jobs + limits.n_waiting, default_concurrency_limit=n_jobs, api_open=False)
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
    app.add_middleware(
        Door,
        n_inputs=n_inputs,
        is_own=lambda visitor, path: uploads.own(visitor, path) is not None,
        words=frozenset(TRACKS.values()),
    )
    room = Room(
        private.path,
        int(limits.disk_mb * 2**20),
        int(limits.visitor_mb * 2**20),
        lambda visitor: [uploads.folder_of(visitor), *visits.folders_of(visitor)],
    )
    app.add_middleware(Gate, names=names, max_bytes=max_bytes + FORM_BYTES, room=room, visitor_of=visitor_of)
    return app


def _shown(
    line: Line, visit: Visit, source: Path, options: Options, limits: Limits, ended: threading.Event
) -> Iterator[dict[str, str]]:
    """What changes on the page, by the name of its place: waiting, then separation, then what came of it."""
    with line.place() as place:
        if place is None:
            yield {"progress": failure_html(FULL)}
            return
        while (worker := place.worker(_TOLD_EVERY_S)) is None:
            if visit.stop.is_set() or ended.is_set():
                yield {"progress": note_html("Cancelled.")}
                return
            yield {"progress": waiting_html(place.n_before)}
        yield from _run(worker, visit, source, options, limits)


def _run(
    worker: WorkerProcess, visit: Visit, source: Path, options: Options, limits: Limits
) -> Iterator[dict[str, str]]:
    pace, faces = Pace(), {}
    found: list[list[dict[str, Any]]] = []
    results = visit.folder / "results"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            worker.separate,
            source,
            results,
            options,
            progress=pace.tell,
            on_faces=found.append,
            stop=visit.stop,
            time_limit_s=limits.time_limit_s,
            opening_limit_s=OPENING_LIMIT_S,
            max_duration_s=limits.duration_s,
            original=results / "original.wav",
        )
        try:
            while not running.done():
                shown = {"progress": progress_html(pace)}
                if found:
                    everyone = found.pop()
                    faces = {each["person"]: each["png"] for each in everyone}
                    shown["people"] = people_html(everyone)
                yield shown
                wait([running], _TOLD_EVERY_S)
        finally:
            visit.stop.set()  # the visitor has left, or it is done
    yield _shown_at_end(visit, running.result(), faces)


def _shown_at_end(visit: Visit, outcome: Outcome, faces: dict[int, str]) -> dict[str, str]:
    if outcome.status == "done":
        return {"progress": "", "people": "", "player": player_html(visit.key, outcome.report, faces)}
    if outcome.status == "stopped":
        return {"progress": note_html("Cancelled."), "people": ""}
    return {"progress": failure_html(outcome.message), "people": ""}
