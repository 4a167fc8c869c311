"""Files that name other files: none of them makes lipsep open anything but itself."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import make_clip

from lipsep.errors import MediaError
from lipsep.media.clip import FileClip
from lipsep.media.reading import load_audio, probe, read_frames

HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
ENDLESS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:100000\n#EXTINF:2,\n{}\n"
MASTER = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\n{}\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S">'
    '<Period><AdaptationSet><Representation id="1" bandwidth="1" mimeType="video/mp4"><BaseURL>{}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
PRIVATE = {
    "ts": {"codec": "mpeg2video", "audio_codec": "mp2"},
    "mp4": {},
    "mkv": {},
    "mp3": {"codec": None, "audio_codec": "mp3"},
}


@pytest.fixture(scope="module")
def private(tmp_path_factory) -> dict[str, Path]:
    """A film of somebody else in each kind of file that playlists of FFmpeg take."""
    folder = tmp_path_factory.mktemp("private")
    return {ending: make_clip(folder / f"film.{ending}", seconds=1.0, **kind) for ending, kind in PRIVATE.items()}


def refused(source) -> None:
    for look in (probe, FileClip, load_audio, lambda s: next(read_frames(s))):
        with pytest.raises(MediaError, match="cannot be read as video or sound") as told:
            look(source)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", [HLS, ENDLESS, MASTER, DASH], ids=["HLS", "endless", "master", "DASH"])
@pytest.mark.parametrize("ending", PRIVATE)
@pytest.mark.parametrize("name", ["list.m3u8", "list.mpd", "list.ts", "list.mp4", "list.mkv", "list.mp3", "list"])
def test_playlists_of_local_files_are_refused(private, tmp_path, kind, ending, name):
    for address in (f"file://{private[ending]}", str(private[ending])):
        (tmp_path / name).write_text(kind.format(address))
        refused(tmp_path / name)
        refused(io.BytesIO((tmp_path / name).read_bytes()))


def test_playlists_of_playlists_lists_of_files_and_addresses_are_refused(private, tmp_path):
    inner = tmp_path / "inner.m3u8"
    inner.write_text(HLS.format(f"file://{private['ts']}"))
    (tmp_path / "film.ts").write_bytes(private["ts"].read_bytes())
    texts = {
        "outer.m3u8": MASTER.format("inner.m3u8"),
        "list.ffconcat": "ffconcat version 1.0\nfile film.ts\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "list.asx": f'<asx version="3.0"><entry><ref href="file://{private["ts"]}"/></entry></asx>',
        "list.pls": f"[playlist]\nFile1=file://{private['ts']}\nNumberOfEntries=1\n",
        "list.m3u": f"{private['ts']}\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        refused(tmp_path / name)


def test_the_playlists_of_the_report_are_refused(shared, private, tmp_path):
    for case in sorted((shared / "cases" / "service").glob("*.m3u8")):
        text = case.read_text().replace("/ABSOLUTE/PATH/OF/private.ts", str(private["ts"]))
        (tmp_path / case.name).write_text(text)
        refused(tmp_path / case.name)


def test_a_name_is_no_pattern_for_further_names(tmp_path):
    for k, level in enumerate((30, 90, 150)):
        cv2.imwrite(str(tmp_path / f"shot{k}.png"), np.full((48, 64, 3), level, np.uint8))
    with pytest.raises(MediaError, match="does not exist"):
        probe(tmp_path / "shot%d.png")
    (tmp_path / "shot%d.png").write_bytes((tmp_path / "shot2.png").read_bytes())
    info = probe(tmp_path / "shot%d.png")
    assert info.is_still and len(list(read_frames(tmp_path / "shot%d.png"))) == 1


def test_what_people_have_is_still_read(private):
    for path in private.values():
        assert probe(path).has_audio
