"""The HTTP interface under attack: files of the server, room on the disk, what kills leave, damaged lists of jobs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from clips import make_clip
from scenes import build_clip, demo_people

from lipsep.errors import OutputError

pytest.importorskip("fastapi", reason="needs pip install 'lipsep[serve]'")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient

from lipsep.separation.options import Options
from lipsep.services.http import app
from lipsep.services.http.app import Limits, create_app
from lipsep.services.http.store import DONE, RUNNING, WAITING, JobStore, new_id
from lipsep.services.process import Outcome

MB = 2**20


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "two.mp4"
    build_clip(demo_people(), path, duration_s=1, size=(320, 180))
    return path


@pytest.fixture(scope="module")
def open_server(model_folder) -> Callable[..., TestClient]:
    def start(data: Path, token: str | None = None, **limits) -> TestClient:
        limits = Limits(**{"upload_mb": 2.0, "duration_s": 20, "n_waiting": 30, **limits})
        return TestClient(create_app(data, str(model_folder), "cpu", 1, 1, token, limits), "http://localhost")

    return start


class Quick:
    """Stands in for the process with the model: every film is done at once, what is no film fails."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def start(self, stop: threading.Event | None = None) -> None: ...

    def close(self) -> None: ...

    def separate(self, source: Path, out: Path, options: Options, **_: object) -> Outcome:
        if not source.is_file() or source.stat().st_size < 1000:
            return Outcome("failed", 0.0, kind="MediaError", message=f"'{source.name}' cannot be read")
        out.mkdir()
        (out / "report.json").write_text("{}")
        return Outcome("done", 0.0, {"input": {"duration_s": 1.0}, "tracks": [], "files": []})


@pytest.fixture
def quick(open_server, monkeypatch) -> Callable[..., TestClient]:
    """Servers whose separations take no time."""
    monkeypatch.setattr(app, "WorkerProcess", Quick)
    return open_server


@pytest.fixture(scope="module")
def server(open_server, tmp_path_factory) -> Iterator[TestClient]:
    with open_server(tmp_path_factory.mktemp("jobs")) as client:
        yield client


def submit(client: TestClient, content: bytes, name: str = "two.mp4"):
    return client.post("/v1/jobs", files={"file": (name, content)}, data={"video": "none"})


def finished(client: TestClient, job_id: str) -> dict:
    patience_s = time.monotonic() + 240
    while (job := client.get(f"/v1/jobs/{job_id}").json())["status"] in (WAITING, RUNNING):
        assert time.monotonic() < patience_s, job
        time.sleep(0.1)
    return job


# --- Files of the server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_playlists_of_private_films_are_refused_and_hang_nothing(server, clip, name):
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:100000\n#EXTINF:2,\nfile://{clip}\n"
    job = finished(server, submit(server, text.encode(), name).json()["id"])
    assert job["status"] == "failed" and "cannot be read" in job["message"] and str(clip.parent) not in job["message"]


def test_a_video_that_lasts_too_long_is_refused(server, tmp_path):
    long = make_clip(tmp_path / "long.mp4", seconds=25.0, fps=2)
    job = finished(server, submit(server, long.read_bytes()).json()["id"])
    assert job["status"] == "failed" and "minutes; at most 0.333 are taken here" in job["message"]


def test_other_hosts_and_pages_of_other_sites_get_nothing(server, clip):
    for headers in {"Host": "attacker.example"}, {"Origin": "https://attacker.example"}:
        assert server.get("/metrics", headers=headers).status_code == 403
        answer = server.post("/v1/jobs", files={"file": ("x.mp4", b"x")}, headers=headers)
        assert answer.status_code == 403 and answer.json()["detail"]


# --- Room ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "said"), [("address_mb", "one visitor may have"), ("disk_mb", "no room for more")])
def test_what_may_be_stored_is_limited_by_address_and_in_all(quick, tmp_path, limit, said):
    with quick(tmp_path / "jobs", **{limit: 3.0}) as client:
        jobs = []
        for _ in range(2):  # what has ended gives its upload back
            jobs.append(submit(client, os.urandom(int(1.9 * MB))).json()["id"])
            assert finished(client, jobs[-1])["status"] == DONE
        (tmp_path / "jobs" / jobs[0] / "results" / "speaker_1.wav").write_bytes(bytes(2 * MB))  # results count
        answer = submit(client, os.urandom(int(1.9 * MB)))
        assert answer.status_code == 507 and said in answer.json()["detail"]
        assert client.delete(f"/v1/jobs/{jobs[0]}").status_code == 204
        assert submit(client, os.urandom(int(1.9 * MB))).status_code == 201


def test_what_a_killed_server_has_stored_and_not_noted_is_removed(quick, tmp_path):
    data = tmp_path / "jobs"
    with quick(data) as client:
        kept = submit(client, b"no film").json()["id"]
        finished(client, kept)
    orphan, foreign, linked = data / new_id(), data / new_id(), data / new_id()
    (orphan / "input").mkdir(parents=True)
    (orphan / "input" / "private.mp4").write_bytes(b"film")
    (foreign / "photos").mkdir(parents=True)  # somebody else's, by whatever name
    (tmp_path / "elsewhere" / "input").mkdir(parents=True)
    linked.symlink_to(tmp_path / "elsewhere")
    with quick(data):
        assert not orphan.exists() and foreign.exists() and (tmp_path / "elsewhere" / "input").exists()
        assert (data / kept).exists()


def test_names_of_more_bytes_than_file_systems_take_are_cut(server):
    job = submit(server, b"no film", "\u65e5" * 85 + ".mp4").json()  # 259 bytes
    assert job["name"].endswith(".mp4") and finished(server, job["id"])["status"] == "failed"


# --- The list of jobs ------------------------------------------------------------------------------------------------


def test_damaged_lists_are_told_in_one_line(tmp_path):
    with_jobs = tmp_path / "good"
    store = JobStore(with_jobs)
    for k in range(300):
        store.add(f"{k}.mp4", {"speakers": None}, new_id())
    store.close()
    intact = (with_jobs / "jobs.sqlite").read_bytes()
    assert len(intact) > 20_000
    damages = {
        "text": b"not a database\n" * 100,
        "empty page": intact[:4096] + bytes(len(intact) - 4096),
        "cut": intact[: len(intact) // 2],
        "header": bytes(100) + intact[100:],
        "noise": intact[:5000] + os.urandom(len(intact) - 5000),
        "another program's": None,
    }
    for name, content in damages.items():
        folder = tmp_path / name
        folder.mkdir()
        if content is None:
            with sqlite3.connect(folder / "jobs.sqlite") as other:
                other.execute("CREATE TABLE jobs (something INTEGER)")
            other.close()
        else:
            (folder / "jobs.sqlite").write_bytes(content)
        with pytest.raises(OutputError, match=r"jobs\.sqlite") as told:
            JobStore(folder)
        assert "\n" not in str(told.value), name
        before = (folder / "jobs.sqlite").read_bytes()
        assert content is None or before == content, "what may be saved yet is left as it is"


def test_rows_that_make_no_sense_fail_and_hold_up_nobody(quick, clip, tmp_path):
    data = tmp_path / "jobs"
    store = JobStore(data)
    bad = {name: new_id() for name in ("options", "no folder", "unknown option", "list")}
    for job_id in bad.values():
        store.add("film.mp4", {"speakers": None}, job_id)
    store.close()
    with sqlite3.connect(data / "jobs.sqlite") as db:
        db.execute("UPDATE jobs SET options = '{' WHERE id = ?", (bad["options"],))
        db.execute("UPDATE jobs SET options = '[]' WHERE id = ?", (bad["list"],))
        db.execute("UPDATE jobs SET options = '{\"wings\": 2}' WHERE id = ?", (bad["unknown option"],))
    db.close()
    (data / bad["unknown option"] / "input").mkdir(parents=True)
    (data / bad["unknown option"] / "input" / "film.mp4").write_bytes(clip.read_bytes())
    with quick(data) as client:
        good = submit(client, clip.read_bytes()).json()["id"]
        assert finished(client, good)["status"] == DONE
        for job_id in bad.values():
            assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "failed"


def test_clocks_that_jump_lose_nothing(tmp_path, monkeypatch):
    """Set back by a year, and ahead by one: the order stays, and nothing is removed that was just finished."""
    store = JobStore(tmp_path)
    now_s = time.time()
    year_s = 365 * 86_400.0
    for name, at_s in ("first", now_s), ("second", now_s - year_s), ("third", now_s + year_s):
        monkeypatch.setattr(time, "time", lambda at_s=at_s: at_s)
        store.add("film.mp4", {}, name)
    assert [store.take()["id"] for _ in range(3)] == ["first", "second", "third"]
    monkeypatch.setattr(time, "time", lambda: now_s - year_s)
    store.end("first", DONE, {}, "")
    monkeypatch.setattr(time, "time", lambda: now_s)
    assert store.ended_before(now_s - 86_400) == ["first"]  # older than it is, by the clock: a clock is all there is
    store.end("second", DONE, {}, "")
    assert "second" not in store.ended_before(now_s - 86_400)
    store.close()


@pytest.mark.slow
def test_cancelling_at_any_moment_leaves_no_file(server, clip):
    data = Path(server.app.state.data)
    for delay_s in (0.0, 0.05, 0.5):
        job_id = submit(server, clip.read_bytes()).json()["id"]
        time.sleep(delay_s)
        assert server.delete(f"/v1/jobs/{job_id}").status_code == 204
        assert server.delete(f"/v1/jobs/{job_id}").status_code == 404
        patience_s = time.monotonic() + 60
        while (data / job_id).exists():
            assert time.monotonic() < patience_s, delay_s
            time.sleep(0.05)
    assert finished(server, submit(server, clip.read_bytes()).json()["id"])["status"] == DONE


def test_cancelling_races_with_every_step_of_the_server(quick, clip, tmp_path):
    """Fifty jobs, cancelled while they are taken, done and noted: no file and no entry of any is left."""
    data, film = tmp_path / "jobs", clip.read_bytes()
    with quick(data) as client:
        for k in range(50):
            job_id = submit(client, film).json()["id"]
            time.sleep(0.0005 * (k % 10))
            assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
        patience_s = time.monotonic() + 20
        while any(path.is_dir() for path in data.iterdir()) and time.monotonic() < patience_s:
            time.sleep(0.05)
        assert [path.name for path in data.iterdir() if path.is_dir()] == []
        assert client.get("/health").json()["waiting"] == 0


@pytest.mark.skipif(not Path("/proc/mounts").exists() or os.getuid() != 0, reason="needs to mount a small disk")
def test_a_full_disk_is_told_and_the_server_lives_on(quick, clip, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        with quick(disk / "jobs") as client:
            with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(bytes(4096))
            answer = submit(client, bytes(MB))
            assert answer.status_code == 507 and "come back later" in answer.json()["detail"]
            assert not [path for path in (disk / "jobs").iterdir() if path.is_dir()]
            time.sleep(1.0)  # the threads that look for work go on
            (disk / "filler").unlink()
            assert finished(client, submit(client, clip.read_bytes()).json()["id"])["status"] == DONE
    finally:
        subprocess.run(["umount", str(disk)], check=True)
