"""The page under attack: a visitor who wants files that are not theirs, or to stop the others."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import HTTPException, Request
from scenes import build_clip, demo_people
from visiting import Visitor, running_page

from lipsep.services.page.uploads import Uploads
from lipsep.services.page.visitors import Visits

SECRET = b"the server's own secret " * 40


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "two people.mp4"
    build_clip(demo_people(), path, duration_s=1, size=(320, 180))
    return path


@pytest.fixture(scope="module")
def address(model_folder) -> Iterator[str]:
    with running_page(model_folder, upload_mb=3.0, visitor_mb=8.0, disk_mb=14.0, duration_s=20) as at:
        yield at


@pytest.fixture
def attacker(address) -> Visitor:
    return Visitor(address)


def page_folder() -> Path:
    """Where the page of this process keeps what visitors send."""
    return Path(os.environ["GRADIO_TEMP_DIR"])


def everything_reachable(visitor: Visitor, path: str) -> list[bytes]:
    """Answers of every address under which Gradio, or we, could hand out a file."""
    found = [visitor.http.get(f"/gradio_api/{kind}{path}") for kind in ("file=", "file/", "proxy=", "stream/")]
    for copy in page_folder().rglob("*"):
        if copy.is_file():
            found.append(visitor.http.get(f"/gradio_api/file={copy}"))
    found += [visitor.http.get(f"/gradio_api/file={page_folder()}"), visitor.http.get(f"/file={path}")]
    return [answer.content for answer in found]


def refused(visitor: Visitor, path: object, **more: object) -> None:
    """An order for a path is turned away, or ends in a sentence; nothing of the file is shown, copied or kept."""
    before = {p: p.stat().st_size for p in page_folder().parent.rglob("*") if p.is_file()}
    answer = visitor.join(path, **more)
    if answer.status_code == 200:  # the handler's own check, should one pass the door
        assert "no file that you have sent here" in visitor.shown()[-1]
    else:
        assert answer.status_code == 403 and "Traceback" not in answer.text
    after = {p: p.stat().st_size for p in page_folder().parent.rglob("*") if p.is_file()}
    assert {p for p in after if after[p] != before.get(p, 0)} == set(), "something was copied"


# --- Files that are not one's own ------------------------------------------------------------------------------------


def test_no_file_of_the_server_is_read(attacker, clip, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_bytes(SECRET)
    private = tmp_path / "private.mp4"
    shutil.copy(clip, private)
    (own,) = attacker.upload("mine.mp4", clip.read_bytes()).json()
    climbing = os.path.join(os.path.dirname(own), os.path.relpath(secret, os.path.dirname(own)))
    for path in (
        *(str(secret), str(private), f"file://{secret}", f"file:{secret}"),
        *("/etc/passwd", "/proc/self/environ", "/proc/self/cmdline", "/dev/zero", "/dev/stdin", "/proc/self/fd/0"),
        *(climbing, f"{own}/../../../../owner", f"{os.path.dirname(own)}/.", os.path.dirname(own), f"{own}\0.mp4"),
        *("", ".", "..", "~/.ssh/id_rsa", "http://127.0.0.1:9/x.mp4", "https://example.org/x.mp4", "x" * 5000),
        *(os.path.relpath(secret), str(Path(own).parents[2]), f"{own}x"),
    ):
        refused(attacker, path)
        for answer in everything_reachable(attacker, path.replace("\0", "")):
            assert SECRET[:40] not in answer and b"root:" not in answer and b"ftyp" not in answer, path
    for path in (None, 7, ["/etc/passwd"], {"path": "/etc/passwd"}):
        refused(attacker, path)
    refused(attacker, str(secret), url=f"/gradio_api/file={own}", is_stream=True)
    refused(attacker, str(secret), orig_name="mine.mp4", size=1, mime_type="video/mp4")


def test_links_lead_nowhere(attacker, clip, tmp_path):
    """Should an attacker manage to place a link among the uploads: neither it nor what it points at is taken."""
    secret = tmp_path / "secret.mp4"
    shutil.copy(clip, secret)
    (own,) = attacker.upload("mine.mp4", clip.read_bytes()).json()
    file_link, folder_link = Path(own).with_name("link.mp4"), Path(own).parent.with_name("linked")
    file_link.symlink_to(secret)
    folder_link.symlink_to(secret.parent)
    for path in (file_link, folder_link / "secret.mp4", folder_link):
        refused(attacker, str(path))


def test_what_another_visitor_has_sent_stays_theirs(address, attacker, clip):
    victim = Visitor(address)
    (theirs,) = victim.upload("private.mp4", clip.read_bytes()).json()
    (same,) = attacker.upload("private.mp4", clip.read_bytes()).json()
    assert theirs != same, "equal files of two visitors are two files"
    refused(attacker, theirs)
    assert all(b"ftyp" not in answer for answer in everything_reachable(attacker, theirs))
    assert victim.join(theirs).status_code == 200
    attacker.session = victim.session  # nor under their session's number, were it known
    assert attacker.join(same).status_code == 403
    for path in (f"queue/data?session_hash={victim.session}", f"heartbeat/{victim.session}"):
        assert attacker.http.get(f"/gradio_api/{path}").status_code == 403
    assert "results/" in victim.shown()[-1]
    assert attacker.http.get("/gradio_api/queue/data?session_hash=nobody").status_code == 404


def test_a_path_is_only_taken_inside_the_visitors_own_folder(tmp_path):
    """The handler's own check, whatever door stands before it."""
    uploads = Uploads(tmp_path, 100)
    own = uploads.folder_of("me") / "abc" / "film.mp4"
    theirs = uploads.folder_of("you") / "abc" / "film.mp4"
    for path in own, theirs:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"film")
    (own.parent / "link.mp4").symlink_to(theirs)
    assert uploads.own("me", str(own)) == own
    for path in (
        *(theirs, own.parent, own.parent / "link.mp4", own.parent / ".." / "abc" / "film.mp4", tmp_path / "nobody"),
        *(f"{own}\0", "/dev/zero", "/proc/self/environ", own.parent / ".." / ".." / "you" / "abc" / "film.mp4", ""),
    ):
        assert uploads.own("me", str(path)) is None, path
    assert uploads.own("..", str(theirs)) is None and uploads.own("nobody", str(own)) is None


# --- Gradio's other routes -------------------------------------------------------------------------------------------


def test_only_what_the_page_needs_is_open(attacker):
    """Every route that Gradio brings, asked in every way: nothing but the page's own answers, and nothing fails."""
    import gradio.routes

    found = re.findall(r'@(router|app)\.\w+\(\s*f?"(/[^"]*)"', Path(gradio.routes.__file__).read_text(encoding="utf-8"))
    routes = {f"/gradio_api{path}" if owner == "router" else path for owner, path in found}
    routes |= {"/gradio_api/deep_link", "/openapi.json", "/docs", "/redoc", "/gradio_api/mcp/sse"}
    assert len(routes) > 60
    for route in sorted(routes):
        path = route.replace("{path:path}", "x").replace("{path_or_url:path}", "/etc/passwd")
        path = path.replace("{", "").replace("}", "").replace(":path", "")
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            if method == "GET" and ("queue/data" in path or "heartbeat" in path or "upload_progress" in path):
                continue  # they are open, and answer for as long as a page is
            answer = attacker.http.request(method, path, json={} if method in ("POST", "PUT") else None)
            assert answer.status_code < 500, (method, path, answer.status_code)
            assert b"root:" not in answer.content
            if method not in ("GET", "POST"):
                assert answer.status_code == 404, (method, path)
    for closed in ("/gradio_api/deep_link", "/gradio_api/cancel", "/gradio_api/run/0", "/gradio_api/process_recording"):
        assert attacker.http.post(closed, json={}).status_code == attacker.http.get(closed).status_code == 404


def test_deep_links_tell_nothing(attacker):
    assert attacker.http.get(f"/gradio_api/deep_link?session_hash={attacker.session}").status_code == 404
    config = attacker.http.get("/config?deep_link=../../../../etc").json()
    assert "deep_link_state" not in config and config["components"]
    assert str(page_folder()) not in json.dumps(config)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 60_000, b"x" * 300_000, b'{"data": 1}'])
def test_orders_that_are_none_are_turned_away(attacker, body):
    answer = attacker.http.post("/gradio_api/queue/join", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "change",
    [
        *({"fn_index": 99}, {"fn_index": -1}, {"fn_index": "0"}, {"fn_index": None}, {"fn_index": True}, {"data": []}),
        *({"session_hash": None}, {"session_hash": "../x"}, {"session_hash": "x" * 65}),
        {"data": ["/etc/passwd", "auto", 1, False]},
        *({"data": [{"path": "/etc/passwd"}, "auto", False, False]}, {"data": [None, "/etc/passwd", False, False]}),
        *({"data": [None, "9", False, False]}, {"data": [None, ["auto"], False, False]}),
        {"data": [[{"path": "/etc/passwd"}], "auto", False, False]},
    ],
)
def test_orders_of_another_form_are_turned_away(attacker, change):
    order = {"data": [None, "auto", False, False], "fn_index": attacker.function} | change
    order = {"session_hash": attacker.session} | order
    assert attacker.http.post("/gradio_api/queue/join", json=order).status_code == 403


# --- Room ------------------------------------------------------------------------------------------------------------


def test_limits_count_by_request_by_visitor_and_in_all(address, attacker):
    """One request cannot carry several files, one visitor not more than 8 MB, all together not more than 14."""
    mb = 2**20
    several = [("files", (f"{k}.mp4", bytes(mb))) for k in range(2)]
    assert attacker.http.post("/gradio_api/upload", files=several).status_code == 400
    several = [("files", (f"{k}.mp4", bytes(int(2.9 * mb)))) for k in range(3)]
    assert attacker.http.post("/gradio_api/upload", files=several).status_code == 413
    sent = [attacker.upload(f"{k}.mp4", bytes(int(2.5 * mb))) for k in range(4)]
    assert [answer.status_code for answer in sent] == [200, 200, 200, 507]
    assert "one visitor may have 8" in sent[-1].json()["detail"]
    others = [Visitor(address).upload("film.mp4", bytes(int(2.5 * mb))) for _ in range(4)]
    assert others[0].status_code == 200 and others[-1].status_code == 507
    assert "no room for more files at present" in others[-1].json()["detail"]
    for folder in page_folder().iterdir():  # as after an hour
        if folder.is_dir():
            shutil.rmtree(folder)
    assert Visitor(address).upload("film.mp4", bytes(mb)).status_code == 200


def test_a_full_disk_is_told_and_no_fault_of_the_server(tmp_path: Path) -> None:
    """Forms go to the temporary folder first, before anything of ours could fail."""

    async def receive() -> dict:
        raise OSError(errno.ENOSPC, "No space left on device")

    form = [(b"content-type", b"multipart/form-data; boundary=x")]
    request = Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": form}, receive)
    with pytest.raises(HTTPException) as told:
        asyncio.run(Uploads(tmp_path, 1000).take(request, "visitor", "upload"))
    assert told.value.status_code == 507 and "come back later" in told.value.detail
    assert not list(tmp_path.iterdir())


def test_many_uploads_at_once_are_counted_while_they_come(attacker):
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(attacker.upload("x.mp4", bytes(2_900_000)).status_code))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(200) <= 2 and answers.count(200) + answers.count(507) == 8
    for folder in page_folder().glob("*/*"):
        shutil.rmtree(folder)


def test_without_a_cookie_nothing_can_be_sent(address):
    import httpx

    answer = httpx.post(f"{address}/gradio_api/upload", files={"files": ("x.mp4", b"x")})
    assert answer.status_code == 403 and "cookies" in answer.json()["detail"]


def test_what_nobody_has_separated_is_removed(tmp_path):
    uploads = Uploads(tmp_path, 100)
    old, new = (uploads.folder_of("me") / name / "film.mp4" for name in ("old", "new"))
    for path in old, new:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"film")
    leftover = tmp_path / "tmpabc"  # Gradio makes one for every order
    leftover.write_bytes(b"")
    for path in old.parent, leftover:
        os.utime(path, (0, 0))
    uploads.sweep(60)
    assert not old.parent.exists() and not leftover.exists() and new.exists()


def test_a_page_that_was_killed_leaves_its_files_until_the_next_start_only(tmp_path, monkeypatch):
    from lipsep.system.outputs import PrivateFolder

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / "lipsep-web-killed"
    child = os.fork()
    if not child:
        folder = PrivateFolder("lipsep-web-")
        (folder.path / "private.mp4").write_bytes(b"film")
        os.rename(folder.path, killed)
        os._exit(9)  # nothing is tidied up
    os.waitpid(child, 0)
    living = PrivateFolder("lipsep-web-")
    assert not killed.exists(), "what the killed one left is gone"
    (tmp_path / "lipsep-web-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    another = PrivateFolder("lipsep-web-")
    assert living.path.exists() and (tmp_path / "elsewhere").exists()
    assert living.path.stat().st_mode & 0o077 == 0
    for folder in living, another, living:
        folder.remove()
    assert not living.path.exists()


def test_a_zip_is_sent_without_a_copy_on_the_disk(tmp_path):
    import io
    import zipfile

    visits = Visits(tmp_path, keep_s=100)
    visit = visits.begin("me", "page")
    results = visit.folder / "results"
    results.mkdir()
    for name in ("report.json", "speaker_1.wav"):
        (results / name).write_bytes(os.urandom(3_000_000))
    pieces = visits.zipped(visit.key, {"1": "Anna"})
    begun = next(pieces)
    assert len(begun) < 2_000_000 and sum(p.stat().st_size for p in visit.folder.rglob("*.*")) == 6_000_000
    archive = zipfile.ZipFile(io.BytesIO(begun + b"".join(pieces)))
    assert archive.testzip() is None and archive.namelist() == ["report.json", "1 Anna.wav"]
    assert archive.read("1 Anna.wav") == (results / "speaker_1.wav").read_bytes()


# --- Standing in the way of others -----------------------------------------------------------------------------------


def test_a_playlist_is_refused_and_nobody_waits_for_it(address, attacker, clip, tmp_path):
    shutil.copy(clip, tmp_path / "private.mp4")
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:100000\n#EXTINF:2,\nfile://{tmp_path / 'private.mp4'}\n"
    for name in ("endless.m3u8", "endless.mp4"):
        start_s = time.monotonic()
        assert "cannot be read" in attacker.separate(name, text.encode())[-1]
        assert time.monotonic() - start_s < 30
    assert "results/" in Visitor(address).separate(clip.name, clip.read_bytes())[-1]
