"""Corpora from servers that break off, lie, are busy or gone: what is there afterwards, and what is said."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from corpus_server import SETTINGS, CorpusServer, served, zipped
from typer.testing import CliRunner

from lipsep.cli import app
from lipsep.data.corpora import downloads
from lipsep.data.corpora.downloads import download, look_up
from lipsep.errors import DownloadError, LipsepError, OutputError
from lipsep.system import outputs
from lipsep.system.fetching import open_client
from lipsep.system.unpacking import unpack

GRID, LOMBARD = 3625687, 3736465
BIG = 3 * 2**20 + 17  # bytes: more than is read at once


@pytest.fixture
def server():
    with served() as playing:
        talkers = {f"s{k}.zip": zipped({f"s{k}/bbaf2n.mpg": bytes([k]) * 5000}) for k in (1, 2)}
        sound = zipped({"audio_25k/s1/bbaf2n.wav": os.urandom(BIG)})
        playing.records[GRID] = {**talkers, "audio_25k.zip": sound, "alignments.zip": b"?", "jasagrid.pdf": b"?"}
        front = {"lombardgrid/front/s2_l_bbim3a.mov": b"film"}
        playing.records[LOMBARD] = {"lombardgrid_front.zip": zipped(front), "lombardgrid_side.zip": b"?"}
        playing.clips = {f"VideoFlash/{1001 + k}_DFA_ANG_XX.flv": bytes([k]) * 700 for k in range(103)}
        playing.clips["AudioWAV/1001_DFA_ANG_XX.wav"] = b"not asked for"
        yield playing


def get(corpus: str, folder: Path) -> None:
    with open_client() as client:
        download(look_up(corpus, client), folder, client)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that lies in a folder, hidden files too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def grid_of(server: CorpusServer) -> dict[str, bytes]:
    """What GRID's folder must hold."""
    expected = {}
    for name, content in server.records[GRID].items():
        if name[0] in "sa" and name != "alignments.zip":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                expected |= {f"{name[:-4]}/{entry}": archive.read(entry) for entry in archive.namelist()}
    return expected


# --- What comes ------------------------------------------------------------------------------------------------------


def test_a_record_comes_unpacked_without_what_is_not_needed_and_only_once(server, tmp_path) -> None:
    get("grid", tmp_path / "grid")
    assert contents(tmp_path / "grid") == grid_of(server)
    asked = len(server.asked)
    assert sorted(name for name, _ in server.asked) == ["audio_25k.zip", "s1.zip", "s2.zip"]
    get("grid", tmp_path / "grid")
    assert len(server.asked) == asked
    shutil.rmtree(tmp_path / "grid" / "s2")
    get("grid", tmp_path / "grid")
    assert server.asked[asked:] == [("s2.zip", None)] and contents(tmp_path / "grid") == grid_of(server)
    get("lombard_grid", tmp_path / "lombard_grid")
    assert contents(tmp_path / "lombard_grid") == {"lombardgrid_front/lombardgrid/front/s2_l_bbim3a.mov": b"film"}


def test_clips_behind_git_lfs_come_by_their_pointers(server, tmp_path) -> None:
    get("crema_d", tmp_path / "crema_d")
    videos = {path: content for path, content in server.clips.items() if path.startswith("VideoFlash")}
    assert contents(tmp_path / "crema_d") == videos
    (tmp_path / "crema_d" / "VideoFlash" / "1005_DFA_ANG_XX.flv").unlink()
    asked = len(server.asked)
    get("crema_d", tmp_path / "crema_d")
    assert [name for name, _ in server.asked[asked:]] == ["VideoFlash/1005_DFA_ANG_XX.flv"]


def test_the_mirror_is_asked_where_the_authors_budget_is_spent(server, tmp_path) -> None:
    server.broke = (True, False)
    get("crema_d", tmp_path / "crema_d")
    assert len(contents(tmp_path / "crema_d")) == 103
    server.broke = (True, True)
    with pytest.raises(DownloadError, match=r"HTTP 403.*; .*the mirror has no bandwidth left"):
        get("crema_d", tmp_path / "other")
    assert not contents(tmp_path / "other")


def test_the_licence_and_the_size_come_first_and_must_be_accepted(server, tmp_path) -> None:
    shown = CliRunner().invoke(app, ["download", "grid", "-o", str(tmp_path)])
    assert "CC BY 4.0" in shown.stdout and "3 files, 0.00 GB" in shown.stdout and str(tmp_path) in shown.stdout
    assert "--yes" in str(shown.exception) and not list(tmp_path.iterdir()) and not server.asked
    for corpus, licence in (("lombard_grid", "CC BY 4.0"), ("crema_d", "ODbL 1.0")):
        shown = CliRunner().invoke(app, ["download", corpus, "-o", str(tmp_path), "--yes"])
        assert shown.exit_code == 0 and licence in shown.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crema_d", "lombard_grid"]
    server.licence = "cc-by-nc-4.0"
    with pytest.raises(DownloadError, match=r"under 'cc-by-nc-4.0' now"):
        get("grid", tmp_path / "grid")


# --- Bad days --------------------------------------------------------------------------------------------------------


def test_what_breaks_off_goes_on_where_it_was(server, tmp_path) -> None:
    del server.records[GRID]["s1.zip"], server.records[GRID]["s2.zip"]
    server.ends_after = 2**21
    get("grid", tmp_path / "grid")
    (first, second) = server.asked
    assert first == ("audio_25k.zip", None) and second == ("audio_25k.zip", f"bytes={2**21}-")
    assert contents(tmp_path / "grid") == grid_of(server)


@pytest.mark.parametrize("behaviour", [{"knows_ranges": False}, {"block": 1000}])
def test_a_server_that_sends_from_earlier_on_is_followed(server, tmp_path, behaviour) -> None:
    for name, value in {**behaviour, "ends_after": 2**21}.items():
        setattr(server, name, value)
    get("grid", tmp_path / "grid")
    assert contents(tmp_path / "grid") == grid_of(server)


def test_a_body_that_always_ends_early_is_given_up_and_kept(server, tmp_path) -> None:
    del server.records[GRID]["s1.zip"], server.records[GRID]["s2.zip"]
    server.ends_after, server.always_ends = 2**21, True
    with pytest.raises(DownloadError, match=r"the connection to 127.0.0.1 broke off .*goes on from here"):
        get("grid", tmp_path / "grid")
    (kept,) = contents(tmp_path / "grid").values()
    assert len(kept) == 2**21
    server.ends_after, server.always_ends = None, False
    get("grid", tmp_path / "grid")
    assert server.asked[-1][1] == f"bytes={2**21}-" and contents(tmp_path / "grid") == grid_of(server)


@pytest.mark.parametrize("corpus", ["grid", "crema_d"])
def test_one_wrong_bit_is_refused_by_the_authors_checksum(server, tmp_path, corpus) -> None:
    name = {"grid": "audio_25k.zip", "crema_d": "VideoFlash/1003_DFA_ANG_XX.flv"}[corpus]
    server.damage = {name}
    with pytest.raises(DownloadError, match=rf"'{name}' was damaged on the way .*announced"):
        get(corpus, tmp_path / corpus)
    assert not [path for path in contents(tmp_path / corpus) if Path(name).stem in path]
    server.damage = set()
    get(corpus, tmp_path / corpus)
    assert [path for path in contents(tmp_path / corpus) if Path(name).stem in path]


def test_more_than_was_announced_ends_the_download(server, tmp_path) -> None:
    with open_client() as client:
        offer = look_up("grid", client)
        short = tuple(replace(file, size=file.size - 1) for file in offer.files if file.name == "s1.zip")
        with pytest.raises(DownloadError, match=r"sends more of 's1.zip' than the \d+ bytes announced"):
            download(replace(offer, files=short), tmp_path / "grid", client)
    assert not contents(tmp_path / "grid")


def test_a_busy_server_is_asked_again_and_one_that_stays_busy_is_told(server, tmp_path) -> None:
    server.busy = 3
    get("lombard_grid", tmp_path / "lombard_grid")
    server.busy = 100
    with pytest.raises(DownloadError, match=r"is busy \(HTTP 503\): run the same command later"):
        get("grid", tmp_path / "grid")


def test_what_is_gone_unreachable_or_not_understood_is_told(server, tmp_path, monkeypatch) -> None:
    del server.records[GRID]
    with pytest.raises(DownloadError, match=r"there is nothing at .*3625687 \(HTTP 404\)"):
        get("grid", tmp_path / "grid")
    server.records[GRID] = {"readme.txt": b"moved"}
    with pytest.raises(DownloadError, match="has no file like"):
        get("grid", tmp_path / "grid")
    monkeypatch.setattr(downloads, "ZENODO", f"{server.address}/archive")  # answers, but not with a record
    with pytest.raises(DownloadError, match="answers in a way that is not understood"):
        get("grid", tmp_path / "grid")
    monkeypatch.setattr(downloads, "CREMA_D_ARCHIVE", f"{server.address}/api/records/{LOMBARD}")
    with pytest.raises(DownloadError, match="cannot be read as an archive"):
        get("crema_d", tmp_path / "crema_d")
    monkeypatch.setattr(downloads, "ZENODO", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127.0.0.1 cannot be reached .*: check the network"):
        get("grid", tmp_path / "grid")
    with pytest.raises(LipsepError, match="unknown corpus 'lrs2': choose one of grid, lombard_grid, crema_d"):
        get("lrs2", tmp_path / "lrs2")
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_told_before_anything_comes(server, tmp_path, monkeypatch) -> None:
    free = SimpleNamespace(free=10**6)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: free)
    with pytest.raises(OutputError, match=r"has 1 MB of space, and 6 MB are needed: free some space"):
        get("grid", tmp_path / "grid")
    assert not server.asked and not contents(tmp_path / "grid")
    free.free = 10**8
    get("grid", tmp_path / "grid")
    assert contents(tmp_path / "grid") == grid_of(server)


def test_an_archive_that_would_fill_the_disk_stays_packed(tmp_path, monkeypatch) -> None:
    (tmp_path / "s1.zip").write_bytes(_archive([("a", bytes(10**6))]))
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**5))
    with pytest.raises(OutputError, match=r"'s1.zip' becomes 1 MB, '.*' has 0 MB"):
        unpack(tmp_path / "s1.zip", tmp_path / "s1", lambda: None)
    assert list(contents(tmp_path)) == ["s1.zip"]


def test_two_runs_do_not_write_to_one_folder(server, tmp_path) -> None:
    with outputs.only_run(tmp_path), pytest.raises(OutputError, match="another run is writing"):
        get("grid", tmp_path)
    get("grid", tmp_path)


# --- In a process of its own -----------------------------------------------------------------------------------------


def start(server: CorpusServer, folder: Path, **options) -> subprocess.Popen[str]:
    """`lipsep download grid --yes`, asking our server."""
    code = f"{SETTINGS.format(address=server.address)}\nfrom lipsep.cli import main\nmain()"
    command = [sys.executable, "-c", code, "download", "grid", "-o", str(folder), "--yes"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_in_the_middle_it_goes_on_from_there(server, tmp_path, sent) -> None:
    server.stalls_after = 2**20
    process = start(server, tmp_path)
    waiting = tmp_path / "grid" / ".audio_25k.zip.partial"
    patience = time.monotonic() + 60
    while not (waiting.exists() and waiting.stat().st_size == 2**20) and time.monotonic() < patience:
        time.sleep(0.01)
    process.send_signal(sent)  # while the connection stalls
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[sent]
    if sent != signal.SIGKILL:
        assert stderr.strip() == "lipsep: stopped; what has arrived is kept, the same command goes on from there"
    assert waiting.stat().st_size == 2**20 and not (tmp_path / "grid" / "audio_25k").exists()
    server.stalls_after, asked = None, len(server.asked)
    get("grid", tmp_path / "grid")
    assert ("audio_25k.zip", f"bytes={2**20}-") in server.asked[asked:]
    assert contents(tmp_path / "grid") == grid_of(server)


def test_a_disk_that_takes_no_more_is_one_line_and_the_next_run_goes_on(server, tmp_path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, 2**21))

    process = start(server, tmp_path, preexec_fn=limit)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and len(stderr.strip().splitlines()) == 1
    assert "cannot write to" in stderr and "free some space" in stderr
    get("grid", tmp_path / "grid")
    assert contents(tmp_path / "grid") == grid_of(server)


# --- Archives of strangers -------------------------------------------------------------------------------------------


def linked() -> bytes:
    entry = zipfile.ZipInfo("s1/link")
    entry.external_attr = 0o120777 << 16
    return _archive([(entry, b"/etc")])


def _archive(entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return out.getvalue()


HOSTILE = {
    "parent": (_archive([("ok", b"1"), ("s1/../../out", b"2")]), "leads out of its folder"),
    "absolute": (_archive([("/tmp/out", b"2")]), "leads out of its folder"),
    "drive": (_archive([("C:/out", b"2")]), "leads out of its folder"),
    "backslash": (_archive([("..\\out", b"2")]), "leads out of its folder"),
    "link": (linked(), "is a link or a device"),
    "bomb": (_archive([("zeros", bytes(64 * 2**20))]), "it would become 1 files of 0.1 GB"),
    "truncated": (zipped({"a": bytes(5000)})[:-40], "cannot be unpacked"),
    "flipped": (zipped({"a": bytes(5000)}).replace(bytes(100), b"\1" * 100, 1), "cannot be unpacked"),
    "no zip": (b"<html>", "cannot be unpacked"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_archives_that_are_damaged_or_hostile_leave_nothing(kind, tmp_path) -> None:
    content, reason = HOSTILE[kind]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "s1.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=reason):
        unpack(tmp_path / "in" / "s1.zip", tmp_path / "in" / "s1", lambda: None)
    assert list(contents(tmp_path)) == ["in/s1.zip"] and not (tmp_path / "in" / "s1").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path) -> None:
    (tmp_path / "s1.zip").write_bytes(_archive([("a", b"1"), ("a", b"2")]))
    with pytest.raises(DownloadError, match="several entries of one name"):
        unpack(tmp_path / "s1.zip", tmp_path / "s1", lambda: None)


def test_a_hostile_archive_of_the_right_checksum_is_one_line_of_the_command(server, tmp_path) -> None:
    server.records[GRID] = {"s1.zip": HOSTILE["parent"][0]}
    ran = CliRunner().invoke(app, ["download", "grid", "-o", str(tmp_path / "corpora"), "--yes"])
    assert isinstance(ran.exception, DownloadError) and "leads out" in str(ran.exception)
    assert not contents(tmp_path)
