"""The HTTP interface; its own description is at /openapi.json."""

from __future__ import annotations

import inspect
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from lipsep.errors import OptionError, OutputError
from lipsep.separation.options import Options
from lipsep.services.gate import FORM_BYTES, LOCAL_NAMES, Gate, HostNames
from lipsep.services.http.runner import UPLOAD, Runner, result_path
from lipsep.services.http.store import DONE, FAILED, RUNNING, WAITING, JobStore, new_id
from lipsep.services.names import safe_name
from lipsep.services.process import SHORT_GRACE_S, WorkerProcess, memory_for_each
from lipsep.services.room import Room
from lipsep.system.outputs import writing_to
from lipsep.version import __version__

_COPY_BYTES = 2**20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What may be asked of the server."""

    upload_mb: float = 500.0
    duration_s: float = 3600.0
    n_waiting: int = 100
    time_limit_s: float = 4 * 3600.0  # for one separation
    keep_s: float = 24 * 3600.0  # ended jobs and their files
    disk_mb: float = 50_000.0  # of all uploads and results together
    address_mb: float = 25_000.0  # of those that came from one address


class Problem(BaseModel):
    """What is wrong, in one sentence."""

    detail: str


class Job(BaseModel):
    """A video that was submitted, and what has become of it."""

    id: str
    status: Literal["waiting", "running", "done", "failed"]
    name: str = Field(description="the name of the submitted file")
    n_ahead: int = Field(description="jobs that wait before this one")
    step: str | None = Field(description="while running: read, faces, lips, separate or write")
    progress: float | None = Field(description="share of this step that is done, 0 to 1, if known")
    message: str = Field(description="why it failed")
    files: list[str] = Field(description="when done: names for /v1/jobs/{id}/files/{name}")
    people: int | None = Field(description="when done: how many voices there are")


class Health(BaseModel):
    """That the server lives."""

    status: Literal["ok"]
    version: str
    waiting: int
    running: int


def create_app(
    data: Path,
    model: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    n_jobs: int = 1,
    token: str | None = None,
    limits: Limits = Limits(),
    names: HostNames = LOCAL_NAMES,
) -> FastAPI:
    """The server as an application for uvicorn. One server at a time may use `data`.

    Args:
        data: folder of jobs and files, which outlive the server.
        model, device, threads: see `lipsep.services.opening.open_separator`.
        n_jobs: separations at a time.
        names: under which the server is addressed.
        token: what "Authorization: Bearer TOKEN" must say for everything but /health; None: nothing is asked.

    Raises:
        ModelError: the model cannot be loaded. OutputError: `data` cannot be used.
    """
    store, asked_options = JobStore(data), _options_form()
    memory = {"memory_bytes": memory_for_each(n_jobs), "grace_s": SHORT_GRACE_S}
    workers = [WorkerProcess(model, device, threads, **memory) for _ in range(n_jobs)]
    runner = Runner(store, workers, limits.duration_s, limits.time_limit_s, limits.keep_s)

    def close() -> None:
        """End everything; it may be called again."""
        runner.close()
        store.close()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        close()

    senders: dict[str, str] = {}  # the address that a job of this run of the server came from

    def folders_of(address: str) -> list[Path]:
        for job_id in [job_id for job_id in list(senders) if not (data / job_id).exists()]:
            senders.pop(job_id, None)
        return [data / job_id for job_id, sender in list(senders.items()) if sender == address]

    common = {code: {"model": Problem} for code in (401, 403, 408, 413, 422, 507)}
    app = FastAPI(
        title="lipsep",
        version=__version__,
        summary="A video goes in; for every person who is visible, that person's voice comes out.",
        lifespan=lifespan,
        redoc_url=None,
        docs_url=None,  # that page fetches its scripts from elsewhere
        responses=common,
    )
    app.state.close, app.state.data = close, data
    room = Room(data, int(limits.disk_mb * 2**20), int(limits.address_mb * 2**20), folders_of)
    max_bytes = int(limits.upload_mb * 2**20) + FORM_BYTES
    app.add_middleware(Gate, names=names, max_bytes=max_bytes, token=token, room=room)
    unknown = {404: {"model": Problem, "description": "no such job, or not any more"}}

    @app.exception_handler(RequestValidationError)
    def not_understood(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"detail": f"{field}: {first['msg'][0].lower()}{first['msg'][1:]}"}, 422)

    @app.exception_handler(OutputError)
    def cannot_store(_: Request, error: OutputError) -> JSONResponse:
        log.warning("%s", error)
        return JSONResponse({"detail": "the server cannot store anything at present: come back later"}, 507)

    def found(job_id: str) -> dict:
        job = store.get(job_id)
        if job is None:
            raise HTTPException(404, "there is no such job, or not any more")
        return job

    def shown(job: dict) -> Job:
        step, completed, total = runner.progress.get(job["id"], (None, 0, None))
        return Job(
            id=job["id"],
            status=job["status"],
            name=job["name"],
            n_ahead=store.n_ahead(job) if job["status"] == WAITING else 0,
            step=step if job["status"] == RUNNING else None,
            progress=min(1.0, completed / total) if total and job["status"] == RUNNING else None,
            message=job["message"],
            files=[*job["report"].get("files", []), "report.json"] if job["status"] == DONE else [],
            people=len(job["report"].get("tracks", [])) if job["status"] == DONE else None,
        )

    @app.post(
        "/v1/jobs",
        status_code=201,
        responses={
            400: {"model": Problem, "description": "the body is no form"},
            503: {"model": Problem, "description": "too many jobs wait"},
        },
    )
    def submit(
        request: Request,
        file: Annotated[UploadFile, File(description="a video with sound")],
        options: Options = Depends(asked_options),  # noqa: B008  (a local name, so no annotation can hold it)
    ) -> Job:
        """Submit a video; it is separated when its turn comes."""
        if store.counts()[WAITING] >= limits.n_waiting:
            raise HTTPException(503, f"{limits.n_waiting} jobs wait already: come back later")
        job_id, name = new_id(), safe_name(file.filename or "")
        folder = data / job_id
        try:
            with writing_to(data):
                (folder / UPLOAD).mkdir(parents=True, mode=0o700)
                with (folder / UPLOAD / name).open("wb") as copy:
                    shutil.copyfileobj(file.file, copy, _COPY_BYTES)
            job = store.add(name, options.model_dump(exclude={"overwrite"}), job_id)
        except OutputError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        senders[job_id] = request.client.host if request.client else ""
        runner.announce()
        return shown(job)

    @app.get("/v1/jobs/{job_id}", responses=unknown)
    def poll(job_id: str) -> Job:
        """How a job is getting on."""
        return shown(found(job_id))

    @app.get("/v1/jobs/{job_id}/files/{name:path}", responses=unknown, response_class=FileResponse)
    def fetch(job_id: str, name: str) -> FileResponse:
        """One of the results of a job that is done."""
        path = result_path(data, found(job_id), name)
        if path is None:
            raise HTTPException(404, "there is no such file: see 'files' of the job")
        return FileResponse(path, filename=path.name)

    @app.delete("/v1/jobs/{job_id}", status_code=204, responses=unknown)
    def cancel(job_id: str) -> None:
        """Stop a job, and remove it with its files."""
        runner.cancel(found(job_id)["id"])

    @app.get("/health")
    def health() -> Health:
        """Whether the server lives, and how much it has to do."""
        counts = store.counts()
        return Health(status="ok", version=__version__, waiting=counts[WAITING], running=counts[RUNNING])

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        """Figures for Prometheus."""
        counts = store.counts()
        lines = ["# TYPE lipsep_jobs gauge"]
        lines += [f'lipsep_jobs{{status="{status}"}} {n}' for status, n in counts.items()]
        lines.append("# TYPE lipsep_jobs_ended_total counter")
        lines += [f'lipsep_jobs_ended_total{{status="{s}"}} {runner.totals[s]}' for s in (DONE, FAILED)]
        for name in ("seconds", "video_seconds"):
            lines += [f"# TYPE lipsep_{name}_total counter", f"lipsep_{name}_total {runner.totals[name]:.2f}"]
        return "\n".join(lines) + "\n"

    return app


def _options_form() -> Callable[..., Options]:
    """What takes a job's options from the fields of its form; not given: the server's LIPSEP_* variables, if any."""
    defaults, parameters = Options.from_environment(), []
    for name, field in Options.model_fields.items():
        if name != "overwrite":  # a job's results are new
            kind = field.annotation
            if NoneType in get_args(kind):  # a form cannot say null: the field is left out
                kind = reduce(or_, (each for each in get_args(kind) if each is not NoneType))
            annotation = Annotated[(kind, *field.metadata, Form(description=field.description))]
            default = getattr(defaults, name)
            parameters.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )

    def asked_options(**given: Any) -> Options:
        try:
            return Options.of(**given)
        except OptionError as error:
            raise HTTPException(422, str(error)) from error

    asked_options.__signature__ = inspect.Signature(parameters)  # what FastAPI reads
    return asked_options
