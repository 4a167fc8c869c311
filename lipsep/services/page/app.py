"""The page itself: Gradio for uploading, waiting and showing; separation runs in processes of its own."""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import fastapi
import gradio
from starlette.background import BackgroundTask

from lipsep.constants import SAMPLE_RATE
from lipsep.errors import LipsepError, MediaError
from lipsep.media.reading import probe, read_recorded_audio, recorded_form
from lipsep.media.writing import WavWriter
from lipsep.services.page.pieces import failure_html, people_html, player_html, progress_html
from lipsep.services.page.visitors import Visit, Visits
from lipsep.services.process import Outcome, WorkerProcess

_HERE = Path(__file__).parent
_LOOK_EVERY_S = 60.0  # for files that nobody uses any more
FONTS = ("system-ui", "sans-serif")  # of the visitor's own system: none is fetched
TITLE = "lipsep: one voice per person"


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for."""

    upload_mb: float = 500.0
    duration_s: float = 600.0
    n_waiting: int = 20  # visitors in the queue; more are told to come back later
    time_limit_s: float = 1800.0  # for one separation
    keep_s: float = 3600.0  # results are removed when unused for so long


def create_app(
    model: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    n_jobs: int = 1,
    limits: Limits = Limits(),
) -> fastapi.FastAPI:
    """The web page as an application for uvicorn. Its files live in a private temporary folder until it ends.

    Args:
        model, device, threads: see `lipsep.commands.terminal.open_separator`.
        n_jobs: separations at a time; the other visitors wait in the order in which they came.

    Raises:
        ModelError: the model cannot be loaded.
    """
    root = Path(tempfile.mkdtemp(prefix="lipsep-web-"))  # only its owner may look into it
    os.environ["GRADIO_TEMP_DIR"] = str(root / "uploads")
    visits = Visits(root, limits.keep_s)
    workers: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
    all_workers = [WorkerProcess(model, device, threads) for _ in range(n_jobs)]
    for worker in all_workers:
        workers.put(worker)

    def close() -> None:
        for worker in all_workers:
            worker.close()
        shutil.rmtree(root, ignore_errors=True)

    try:
        all_workers[0].start()
    except BaseException:
        close()
        raise

    @asynccontextmanager
    async def lifespan(_: fastapi.FastAPI):
        ended = threading.Event()

        def sweep() -> None:
            while not ended.wait(_LOOK_EVERY_S):
                visits.sweep()

        threading.Thread(target=sweep, daemon=True).start()
        yield
        ended.set()
        close()

    app = fastapi.FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/results/{key}/everything.zip")
    def everything(key: str, request: fastapi.Request) -> fastapi.Response:
        path = visits.zipped(key, dict(request.query_params))
        if path is None:
            raise fastapi.HTTPException(404, "there is nothing here, or not any more")
        remove = BackgroundTask(path.unlink, missing_ok=True)
        return fastapi.responses.FileResponse(path, filename="lipsep.zip", background=remove)

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
        visit = visits.begin(request.session_hash)
        source = visit.folder / Path(upload).name
        os.link(upload, source)  # not moved: Gradio keeps equal files of two visitors in one place, and sweeps it
        worker = workers.get()
        try:
            yield from _run(worker, visit, source, "original" if as_recorded else "16k", limits)
        finally:
            visit.stop.set()
            workers.put(worker)

    def leave(request: gradio.Request) -> None:
        visits.end(request.session_hash)

    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, int(limits.keep_s))) as page:
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
    return gradio.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=int(limits.upload_mb * 2**20),
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gradio.themes.Base(font=list(FONTS), font_mono=["monospace"]),
        css_paths=[_HERE / "page.css"],
        head=f"<script>{(_HERE / 'player.js').read_text(encoding='utf-8')}</script>",
    )


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
    try:
        outcome = running.result()
        shown |= _shown_at_end(visit, outcome)
    except LipsepError as error:
        shown |= {"progress": failure_html(str(error)), "people": ""}
    yield tuple(shown.values())


def _separate(
    worker: WorkerProcess,
    visit: Visit,
    source: Path,
    rate: str,
    limits: Limits,
    changed: queue.SimpleQueue[dict[str, str]],
) -> Outcome:
    duration_s = probe(source).duration_s
    if duration_s > limits.duration_s:
        raise MediaError(
            f"'{source.name}' lasts {duration_s / 60:.1f} minutes; at most {limits.duration_s / 60:.3g} are taken here"
        )
    results = visit.folder / "results"
    outcome = worker.separate(
        source,
        results,
        {"rate": rate},
        progress=lambda *step: changed.put({"progress": progress_html(*step)}),
        on_faces=lambda people: changed.put({"people": people_html(people)}),
        stop=visit.stop,
        time_limit_s=limits.time_limit_s,
    )
    if outcome.status == "done":
        form = recorded_form(source) if rate == "original" else (SAMPLE_RATE, 1)
        with WavWriter(results / "original.wav", sample_rate=form[0], n_channels=form[1]) as wav:
            for block in read_recorded_audio(source, *form):
                wav.write(block)
    source.unlink(missing_ok=True)
    return outcome


def _shown_at_end(visit: Visit, outcome: Outcome) -> dict[str, Any]:
    if outcome.status == "done":
        return {"progress": "", "player": player_html(visit.key, outcome.report)}
    return {"progress": failure_html(outcome.message or "stopped"), "people": ""}
