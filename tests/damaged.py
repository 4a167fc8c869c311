"""A corpus of damaged, absurd and foreign files: what people, broken disks and attackers hand in as a video."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile

from lipsep.media.reading import read_frames
from lipsep.system.outputs import finished_report

N_RANDOM = 288
EXTREMES = (0, 1, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADERS = (
    b"RIFF\xff\xff\xff\xffAVI LIST",
    b"\x1aE\xdf\xa3\x01",
    b"\0\0\0\x20ftypisom",
    b"ID3\x04",
    b"OggS\0\2",
    b"\xff\xd8",
)
N_FRAMES, RATE = 13, 16_000  # of each intact clip: half a second
CONTAINERS = {  # ending: picture codec, pixel format, sound codec
    "mp4": ("libx264", "yuv420p", "aac"),
    "mov": ("mpeg4", "yuv420p", "pcm_s16le"),
    "mkv": ("ffv1", "yuv420p", "flac"),
    "webm": ("libvpx", "yuv420p", "libopus"),
    "avi": ("mjpeg", "yuvj420p", "pcm_f32le"),
    "ts": ("mpeg2video", "yuv420p", "mp2"),
    "flv": ("flv", "yuv420p", "mp3"),
    "3gp": ("h263", "yuv420p", "aac"),
}
SIZES = {"3gp": (176, 144)}  # all that H.263 knows near the others'
RATES = {"webm": 48_000, "ts": 48_000, "flv": 44_100}


def corpus(folder: Path, talking: Path, n_random: int = N_RANDOM) -> Iterator[Path]:
    """Write the corpus into `folder`, file by file; `talking` is a clip in which faces are found."""
    pictures = [frame.image for frame in read_frames(talking)][:N_FRAMES]
    intact = {f"talk.{ending}": film(folder / f"talk.{ending}", pictures) for ending in CONTAINERS}
    content = {name: path.read_bytes() for name, path in intact.items()}
    for path in intact.values():
        yield path
    yield from _crafted(folder, pictures, content)
    for seed in range(n_random):
        name = sorted(content)[seed % len(content)]
        kind, broken = damage(content[name], np.random.default_rng(seed))
        path = folder / f"{seed:03d} {kind}.{name.split('.')[1]}"
        path.write_bytes(broken)
        yield path


def damage(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """What was done, and the result."""
    broken = bytearray(data)
    first, second = sorted(int(k) for k in rng.integers(0, len(data), 2))
    # headers lie at either end; half of all damage goes there
    near_end = rng.random() < 0.5
    kinds = ("cut", "cut front", "flip", "flip header", "extreme fields", "zeros", "hole", "twice", "noise", "header")
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "cut":
        broken = broken[:first]
    elif kind == "cut front":
        broken = broken[second:]
    elif kind == "flip":
        for at in rng.integers(0, len(data), int(rng.integers(1, 200))):
            broken[at] ^= 1 << int(rng.integers(8))
    elif kind in ("flip header", "extreme fields"):
        span = min(3000, len(data) // 2)
        start = len(data) - span if near_end else 0
        for at in start + rng.integers(0, span - 4, int(rng.integers(1, 30))):
            if kind == "flip header":
                broken[at] ^= 1 << int(rng.integers(8))
            else:
                order = "big" if rng.random() < 0.5 else "little"
                broken[at : at + 4] = int(rng.choice(EXTREMES)).to_bytes(4, order)
    elif kind == "zeros":
        broken[first:second] = bytes(second - first)
    elif kind == "hole":
        del broken[first:second]
    elif kind == "twice":
        broken[first:first] = broken[first:second]
    elif kind == "noise":
        broken[first:second] = rng.bytes(second - first)
    else:
        header = HEADERS[int(rng.integers(len(HEADERS)))]
        broken[: len(header)] = header
    return kind, bytes(broken)


def whole(out: Path) -> bool:
    """Whether a folder of results holds what its report lists, every voice finite and as long as the input."""
    report = finished_report(out)
    if report is None:
        return not (out / "report.json").exists()
    voices = [soundfile.read(out / name)[0] for name in report["files"] if name.endswith(".wav")]
    lengths_fit = {len(voice) for voice in voices} == {report["input"]["n_samples"]}
    return lengths_fit and all(np.isfinite(voice).all() for voice in voices)


def film(
    path: Path,
    pictures: list[np.ndarray] | None,
    wave: np.ndarray | None = None,
    *,
    kind: tuple[str, str, str] | None = None,
    rate: int | None = None,
    sound: bool = True,
    picture_times_s: Callable[[int], float] = lambda k: k / 25,
    sound_times_s: Callable[[float], float] = lambda s: s,
) -> Path:
    """Write pictures (None: none; []: a track without any) and sound, with times as told.

    Args:
        wave: float32 (channels, n) at `rate`; default a tone as long as the pictures.
        kind: picture codec, pixel format, sound codec; default by the ending of the name.
    """
    ending = path.suffix[1:]
    video_codec, pix_fmt, audio_codec = kind or CONTAINERS[ending]
    rate = rate or RATES.get(ending, RATE)
    if wave is None:
        wave = 0.1 * np.sin(np.arange(N_FRAMES * rate // 25)[None] / 20).astype(np.float32)
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(wave)]
    with av.open(f"file:{path}", "w") as out:
        video = audio = None
        if pictures is not None:
            video = out.add_stream(video_codec, rate=25)
            size = SIZES.get(ending) or (pictures[0].shape[1::-1] if pictures else (64, 48))
            video.width, video.height = size
            video.pix_fmt = pix_fmt
            if kind:
                video.codec_context.time_base = Fraction(1, 1000)
        if sound:
            audio = out.add_stream(audio_codec, rate=rate, layout=layout)
        for start in range(0, wave.shape[1] if sound else 0, 960):
            block = np.ascontiguousarray(wave[:, start : start + 960])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(sound_times_s(start / rate) * rate)
            out.mux(audio.encode(frame))
        if audio is not None:
            out.mux(audio.encode(None))
        for k, picture in enumerate(pictures or []):
            fitted = cv2.resize(picture, size) if picture.shape[1::-1] != size else picture
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(fitted), format="rgb24").reformat(format=pix_fmt)
            frame.time_base = Fraction(1, 90_000)
            frame.pts = round(picture_times_s(k) * 90_000)
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode(None))
    return path


def _crafted(folder: Path, pictures: list[np.ndarray], content: dict[str, bytes]) -> Iterator[Path]:
    """Whole files that are absurd, and files that are something else."""
    lossless, mjpeg = ("ffv1", "yuv420p", "pcm_f32le"), ("mjpeg", "yuvj420p", "pcm_s16le")
    for width, height in (1, 1), (2, 2), (1, 700), (700, 1), (16, 16), (8000, 2), (7680, 4320), (16384, 16):
        picture = np.full((height, width, 3), 90, np.uint8)
        yield film(folder / f"{width}x{height}.mkv", [picture] * 2, kind=("mjpeg", "yuvj444p", "flac"))

    jumps = {
        "a minute ahead": lambda s: s + 60 * (s > 0.2),
        "ten days ahead": lambda s: s + 864_000 * (s > 0.2),
        "begins after a day": lambda s: s + 86_400,
        "before zero": lambda s: s - 5,
        "slow motion": lambda s: s * 40,
    }
    for name, at_s in jumps.items():
        yield film(folder / f"pictures {name}.mkv", pictures, picture_times_s=lambda k, f=at_s: f(k / 25))
        yield film(folder / f"sound {name}.mkv", pictures, sound_times_s=at_s, kind=lossless)

    n = RATE // 2
    tone = 0.1 * np.sin(np.arange(n) / 20).astype(np.float32)
    nan, huge = tone.copy(), tone.copy()
    nan[100:200], huge[100:200] = np.nan, 1e30
    waves = {
        "NaN": nan,
        "infinite": np.where(np.arange(n) % 1000 == 0, np.inf, tone),
        "all NaN": np.full(n, np.nan),
        "huge": huge,
        "silent": np.zeros(n),
        "full scale": np.sign(tone + 1e-9),
        "constant": np.ones(n),
        "denormal": np.full(n, 1e-42),
        "one sample": tone[:1],
        "no sample": tone[:0],
    }
    for name, wave in waves.items():
        yield film(
            folder / f"sound {name}.avi", pictures, wave.astype(np.float32)[None], kind=(*mjpeg[:2], "pcm_f32le")
        )
    for rate in 1000, 8000, 11_025, 96_000, 192_000, 384_000:
        wave = 0.1 * np.sin(np.arange(rate // 2)[None] / 20).astype(np.float32)
        yield film(folder / f"{rate} Hz.mkv", pictures, wave, rate=rate, kind=lossless)
    yield film(folder / "six channels.mkv", pictures, np.tile(tone, (6, 1)), kind=lossless)

    yield film(folder / "one picture.mp4", pictures[:1])
    yield film(folder / "picture track without pictures.mkv", [], kind=lossless)
    yield film(folder / "no sound.mp4", pictures, sound=False)
    yield film(folder / "no pictures.mkv", None, kind=lossless)
    yield film(folder / "1000 pictures a second.mkv", pictures, picture_times_s=lambda k: k / 1000, kind=mjpeg)
    yield film(folder / "a picture a minute.mkv", pictures[:3], picture_times_s=lambda k: 60.0 * k, kind=mjpeg)

    for name, rate, size in ("0 Hz", 0, 999), ("1 Hz", 1, 999), ("4 GHz", 2**32 - 1, 999), ("4 GB", 8000, 2**32 - 1):
        fmt = struct.pack("<HHIIHH", 1, 1, rate, (2 * rate) % 2**32, 2, 16)
        wav = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", size) + bytes(1000)
        yield _bytes(folder / f"header says {name}.wav", b"RIFF" + struct.pack("<I", 2**31) + wav)

    mp4 = content["talk.mp4"]
    foreign = {
        "empty.mp4": b"",
        "one byte.mov": b"\0",
        "zeros.mp4": bytes(5000),
        "text.mp4": b"This is no video.\n" * 50,
        "page.mp4": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "archive.mp4": b"PK\3\4" + bytes(200),
        "document.mp4": b"%PDF-1.7\n" + bytes(200),
        "program.mp4": b"\x7fELF" + bytes(400),
        "playlist.m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "playlist of the network.m3u8": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "list.ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "sub.srt": b"1\n00:00:00,000 --> 00:00:01,000\nHello\n",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "picture.png": cv2.imencode(".png", pictures[0])[1].tobytes(),
        "picture.jpg": cv2.imencode(".jpg", pictures[0])[1].tobytes(),
        "two in one.mp4": mp4 + mp4,
        "MP4 named MKV.mkv": mp4,
        "without its index.mp4": mp4[: mp4.find(b"moov")],
        "index only.mp4": mp4[mp4.find(b"moov") - 4 :],
    }
    for name, data in foreign.items():
        yield _bytes(folder / name, data)
    (folder / "a folder.mp4").mkdir()
    yield folder / "a folder.mp4"
    yield folder / "not there.mp4"
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "a pipe.mp4")
        (folder / "a loop.mp4").symlink_to("a loop.mp4")
        (folder / "endless.mp4").symlink_to("/dev/zero")
        yield from (folder / name for name in ("a pipe.mp4", "a loop.mp4", "endless.mp4"))


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
