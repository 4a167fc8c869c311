"""The HTTP interface: submit, poll, fetch, cancel; limits, token, restarts; fuzzed against its own description."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scenes import build_clip, demo_people

from lipsep.errors import OutputError

pytest.importorskip("fastapi", reason="needs pip install 'lipsep[serve]'")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient

from lipsep.services.gate import HostNames
from lipsep.services.http.app import Limits, create_app
from lipsep.services.http.store import DONE, RUNNING, WAITING, JobStore

MAX_MB = 2.0
NAMES = HostNames.of("localhost", ["testserver"])  # as schemathesis calls what it tests in this process


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "two.mp4"
    build_clip(demo_people(), path, duration_s=1, size=(320, 180))
    return path.read_bytes()


@pytest.fixture(scope="module")
def open_server(model_folder) -> Callable[..., TestClient]:
    def start(data: Path, **options) -> TestClient:
        limits = Limits(upload_mb=MAX_MB, duration_s=20, n_waiting=options.pop("n_waiting", 30))
        app = create_app(data, str(model_folder), "cpu", 1, 1, limits=limits, names=NAMES, **options)
        return TestClient(app, "http://localhost")

    return start


@pytest.fixture(scope="module")
def server(open_server, tmp_path_factory) -> Iterator[TestClient]:
    with open_server(tmp_path_factory.mktemp("jobs")) as client:
        yield client


def submit(client: TestClient, content: bytes, name: str = "two.mp4", **form):
    return client.post("/v1/jobs", files={"file": (name, content)}, data=form)


def finished(client: TestClient, job_id: str) -> dict:
    patience_s = time.monotonic() + 240
    while (job := client.get(f"/v1/jobs/{job_id}").json())["status"] in (WAITING, RUNNING):
        assert time.monotonic() < patience_s, job
        time.sleep(0.1)
    return job


def test_submit_poll_fetch_cancel(server, clip):
    answer = submit(server, clip, speakers=1, video="none", rate="original")
    assert answer.status_code == 201 and answer.json()["status"] in (WAITING, RUNNING)
    job = finished(server, answer.json()["id"])
    assert (job["status"], job["people"]) == (DONE, 1) and "speaker_1.wav" in job["files"]
    address = f"/v1/jobs/{job['id']}"
    wav = server.get(f"{address}/files/speaker_1.wav")
    assert wav.content[:4] == b"RIFF" and wav.headers["content-disposition"].endswith('"speaker_1.wav"')
    assert server.get(f"{address}/files/report.json").json()["settings"]["rate"] == "original"
    for name in "nothing.wav", "../jobs.sqlite", "..%2f..%2fjobs.sqlite", "%2e%2e/%2e%2e/jobs.sqlite", "/etc/passwd":
        assert server.get(f"{address}/files/{name}").status_code == 404, name
    metrics = server.get("/metrics").text
    assert 'lipsep_jobs{status="done"}' in metrics and "lipsep_video_seconds_total" in metrics
    assert server.delete(address).status_code == 204
    assert server.get(address).status_code == 404 and server.delete(address).status_code == 404


def test_what_is_no_video_fails_with_a_sentence_and_never_leaves_its_folder(server, tmp_path):
    job = finished(server, submit(server, b"no video", "../../../evil.mp4").json()["id"])
    assert job["status"] == "failed" and job["name"] == "evil.mp4" and "cannot be read" in job["message"]
    assert not list(tmp_path.parent.rglob("evil.mp4")) or "input" in str(next(tmp_path.parent.rglob("evil.mp4")))


def test_oversized_bodies_are_refused_announced_or_not(server):
    assert submit(server, bytes(int(MAX_MB * 2**20) + 2**17)).status_code == 413

    def unannounced() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(int(MAX_MB) + 2):
            yield bytes(2**20)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = server.post("/v1/jobs", content=unannounced(), headers=headers)
    assert answer.status_code == 413 and "at most 2" in answer.json()["detail"]


def test_without_the_token_only_health_answers(open_server, tmp_path):
    with open_server(tmp_path / "jobs", token="secret") as client:
        assert client.get("/health").status_code == 200
        assert submit(client, b"").status_code == client.get("/metrics").status_code == 401
        assert client.get("/v1/jobs/x", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/v1/jobs/x", headers={"Authorization": "Bearer secret"}).status_code == 404


@pytest.mark.slow
def test_twenty_uploads_at_once_and_a_restart_in_the_middle(open_server, clip, tmp_path):
    with open_server(tmp_path / "jobs") as client:
        with ThreadPoolExecutor(20) as people:
            answers = list(people.map(lambda _: submit(client, clip, video="none"), range(20)))
        assert [answer.status_code for answer in answers] == [201] * 20
        ids = [answer.json()["id"] for answer in answers]
        assert len(set(ids)) == 20
        for job_id in ids[3:]:
            assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    with open_server(tmp_path / "jobs") as client:  # the server has ended while they waited or ran
        assert [finished(client, job_id)["status"] for job_id in ids[:3]] == [DONE] * 3
        assert client.get(f"/v1/jobs/{ids[5]}").status_code == 404
    left = sorted(path.name for path in (tmp_path / "jobs").iterdir() if path.is_dir())
    assert left == sorted(ids[:3])  # cancelled jobs leave nothing


def test_jobs_are_taken_in_order_and_survive(tmp_path):
    store = JobStore(tmp_path)
    for name in "abc":
        store.add(f"{name}.mp4", {"speakers": None}, name)
    assert store.n_ahead(store.get("c")) == 2
    assert store.take()["id"] == "a" and store.get("a")["status"] == RUNNING
    with pytest.raises(OutputError, match="another server"):
        JobStore(tmp_path)
    store.end("a", DONE, {"files": ["x"]}, "")
    assert store.take()["id"] == "b"
    store.close()
    again = JobStore(tmp_path)
    assert again.counts() == {WAITING: 2, RUNNING: 0, DONE: 1, "failed": 0}
    assert again.take()["id"] == "b" and again.get("a")["report"] == {"files": ["x"]}
    assert again.ended_before(time.time() + 1) == ["a"] and again.ended_before(time.time() - 60) == []
    again.remove("a")
    assert again.get("a") is None
    again.close()


def test_a_damaged_database_is_told(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"damaged" * 1000)
    with pytest.raises(OutputError, match=r"jobs\.sqlite"):
        JobStore(tmp_path)


def test_too_many_waiting_jobs_are_turned_away(open_server, tmp_path):
    with open_server(tmp_path / "jobs", n_waiting=0) as client:
        answer = submit(client, b"x")
        assert answer.status_code == 503 and "come back later" in answer.json()["detail"]


@pytest.mark.slow
def test_a_field_that_means_nothing_is_named_in_one_sentence(server, clip):
    for field, value in {"speakers": "two", "gain": "loud", "start": "yesterday", "video": "3d"}.items():
        answer = submit(server, clip, **{field: value})
        assert answer.status_code == 422 and answer.json()["detail"].startswith(field), answer.json()


def test_fuzzed_against_its_own_description(server):
    """Every answer to a few hundred generated requests is one that /openapi.json announces, and never a 5xx defect."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs pip install schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_asgi("/openapi.json", server.app)
    n_requests = 0
    for operation in (result.ok() for result in schema.get_all_operations()):

        @given(case=operation.as_strategy())
        @settings(
            max_examples=40,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        def fuzz(case) -> None:
            nonlocal n_requests
            n_requests += 1
            case.call_and_validate()

        fuzz()
    assert n_requests >= 100
