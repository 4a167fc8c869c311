"""Make the bundled two-talker clip from freely licensed parts; docs/demo_clip.md tells what they are.

    apt-get install flite
    python scripts/make_demo_clip.py                # voices and clip
    python scripts/make_demo_clip.py --portraits    # the portraits too; needs scikit-image (and matplotlib)

Everything lands in lipsep/assets: portrait_*.jpg and portraits.json, demo_voices.flac, demo.json, demo.mp4. The same
programs give the same clip.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import subprocess
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import soundfile
from scipy.signal import resample_poly

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.data.puppets import Phone
from lipsep.data.scenes import build_clip, demo_people
from lipsep.errors import LipsepError

ASSETS = Path(__file__).resolve().parents[1] / "lipsep" / "assets"
DURATION_S = 9.0
VOICE_RMS = 0.08  # of full scale, while speaking: both voices equally loud


@dataclass(frozen=True)
class PortraitSource:
    """Where a portrait comes from; `box` is what is kept: left, top, right, bottom in px."""

    name: str
    package: str
    file: str
    box: tuple[int, int, int, int]
    quality: int  # of the JPEG
    credit: str
    licence: str


@dataclass(frozen=True)
class Speaker:
    """Who says what, left to right. `raised` scales pitch and formants after flite has spoken `stretch` times as long."""

    portrait: str
    flite_voice: str
    raised: Fraction
    stretch: float
    starts_s: float
    text: str


PORTRAITS = (
    PortraitSource(
        "collins",
        "skimage",
        "data/astronaut.png",
        (65, 0, 385, 360),
        88,
        "NASA, portrait of the astronaut Eileen Collins (NASA Great Images; shipped with scikit-image)",
        "public domain (work of the United States government)",
    ),
    PortraitSource(
        "hopper",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        (20, 0, 500, 540),
        60,
        "United States Navy, portrait of Commodore Grace Hopper, 20 January 1984 (shipped with matplotlib)",
        "public domain (work of the United States government)",
    ),
)
SPEAKERS = (
    Speaker(
        "collins",
        "slt",
        Fraction(27, 25),
        1.10,
        0.32,
        "She packed a small blue map, five warm apples and a bottle of milk. "
        "The morning boat leaves for the island at half past seven.",
    ),
    Speaker(
        "hopper",
        "rms",
        Fraction(28, 25),
        1.10,
        0.64,
        "Every Friday my father moves the piano away from the open window. "
        "Rain is good for tomatoes, but bad for music.",
    ),
)


def make_portraits() -> None:
    """Crop the two portraits and find their landmarks."""
    from lipsep.faces import find_faces
    from lipsep.media import Frame

    entries = {}
    for source in PORTRAITS:
        spec = importlib.util.find_spec(source.package)
        if spec is None or spec.origin is None:
            raise LipsepError(f"the portrait {source.name} ships with {source.package}, which is not installed")
        original = Path(spec.origin).parent / source.file
        left, top, right, bottom = source.box
        picture = cv2.imread(str(original))[top:bottom, left:right]
        file = f"portrait_{source.name}.jpg"
        cv2.imwrite(str(ASSETS / file), picture, [cv2.IMWRITE_JPEG_QUALITY, source.quality])
        grown = cv2.cvtColor(cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), cv2.COLOR_BGR2RGB)
        tracks = find_faces(Frame(index, index / FPS, grown) for index in range(FPS))
        if len(tracks) != 1:
            raise LipsepError(f"{len(tracks)} faces found in {original}; a portrait shows one")
        landmarks = tracks[0].landmarks[-1] / 2
        entries[source.name] = {
            "file": file,
            "credit": source.credit,
            "licence": source.licence,
            "original_sha256": hashlib.sha256(original.read_bytes()).hexdigest(),
            "landmarks": np.round(landmarks, 1).astype(float).tolist(),
        }
    _write_json(ASSETS / "portraits.json", entries)


def speak(speaker: Speaker) -> tuple[np.ndarray, list[Phone]]:
    """Let flite speak: voice (T,) float32 at 16 kHz for the whole clip, and its phones."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "voice.wav"
        command = ["flite", "-voice", speaker.flite_voice, "--setf", f"duration_stretch={speaker.stretch}"]
        command += ["-psdur", "-t", speaker.text, "-o", str(wav)]
        try:
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        except FileNotFoundError:
            raise LipsepError("flite is not installed; on Debian: apt-get install flite") from None
        spoken, rate = soundfile.read(wav, dtype="float32")
    if rate != SAMPLE_RATE:
        raise LipsepError(f"flite's voice {speaker.flite_voice} speaks at {rate} Hz; {SAMPLE_RATE} Hz needed")
    ratio = speaker.raised
    spoken = resample_poly(spoken, ratio.denominator, ratio.numerator)
    phones, start_s = [], speaker.starts_s
    for word in printed.split():
        name, stop = word.split(":")
        stop_s = speaker.starts_s + float(stop) / float(ratio)
        phones.append(Phone(name, round(start_s, 3), round(stop_s, 3)))
        start_s = stop_s
    voice = np.zeros(round(DURATION_S * SAMPLE_RATE), np.float32)
    first = round(speaker.starts_s * SAMPLE_RATE)
    if first + len(spoken) > len(voice):
        raise LipsepError(f"{speaker.flite_voice} speaks until {first / SAMPLE_RATE + len(spoken) / SAMPLE_RATE:.1f} s")
    voice[first : first + len(spoken)] = spoken
    loud = np.abs(spoken) > 0.02 * np.abs(spoken).max()
    return voice * (VOICE_RMS / np.sqrt((spoken[loud] ** 2).mean())), phones


def make_voices() -> None:
    """Write the clean voices and who says what."""
    voices, people = [], []
    for speaker in SPEAKERS:
        voice, phones = speak(speaker)
        voices.append(voice)
        people.append(
            {
                "portrait": speaker.portrait,
                "text": speaker.text,
                "voice": f"flite cmu_us_{speaker.flite_voice}, pitch and formants times {float(speaker.raised):.2f}",
                "voice_licence": "CMU Flite licence (BSD-like), Carnegie Mellon University; changed",
                "phones": [list(phone) for phone in phones],
            }
        )
    soundfile.write(ASSETS / "demo_voices.flac", np.stack(voices, axis=1), SAMPLE_RATE, subtype="PCM_16")
    entry = {
        "order": "left to right in the picture, first to last channel of demo_voices.flac",
        "notice": "The voices and words are synthetic; nobody pictured said them, and NASA and the US Navy endorse nothing.",
        "duration_s": DURATION_S,
        "people": people,
    }
    _write_json(ASSETS / "demo.json", entry)


def make_clip() -> None:
    """Film the two people and say how large the parts are."""
    build_clip(demo_people(), ASSETS / "demo.mp4", duration_s=DURATION_S, seed=7, crf=23, preset="slow")
    for path in sorted(ASSETS.iterdir()):
        print(f"{path.name:24s} {path.stat().st_size / 1000:8.1f} kB")


def _write_json(path: Path, content: dict) -> None:
    """Readable, with one line per innermost list."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    lines, inner = [], []
    for line in text.splitlines():
        if inner or (line.strip() == "[" and lines and not lines[-1].rstrip().endswith(":")):
            inner.append(line if not inner else line.strip())
            if line.strip().rstrip(",") == "]":
                lines.append(inner[0] + " ".join(inner[1:-1]) + inner[-1])
                inner = []
        else:
            lines.append(line)
    path.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the bundled two-talker clip.")
    parser.add_argument("--portraits", action="store_true", help="also crop the portraits and find their landmarks")
    if parser.parse_args().portraits:
        make_portraits()
    make_voices()
    make_clip()
