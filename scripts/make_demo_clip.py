"""Make the bundled two-talker clip from freely licensed parts; docs/demo_clip.md tells what they are.

    apt-get install flite
    python scripts/make_demo_clip.py

Writes lipsep/assets/demo_voices.flac, demo.json and demo.mp4; the portraits are there already (make_portraits.py).
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from scenes import build_clip, demo_people
from scipy.signal import resample_poly

from lipsep.constants import SAMPLE_RATE
from lipsep.data.synthetic.visemes import Phone
from lipsep.errors import LipsepError

ASSETS = Path(__file__).resolve().parents[1] / "lipsep" / "assets"
DURATION_S = 9.0
VOICE_RMS = 0.08  # of full scale, while speaking: both voices equally loud


@dataclass(frozen=True)
class Speaker:
    """Who says what. `raised` scales pitch and formants after flite has spoken `stretch` times as long."""

    portrait: str
    flite_voice: str
    raised: Fraction
    stretch: float
    starts_s: float
    text: str


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
        "notice": "Voices and words are synthetic: nobody pictured said them; NASA and the US Navy endorse nothing.",
        "duration_s": DURATION_S,
        "people": people,
    }
    phone = re.compile(r'\[\s+("\w+"),\s+([\d.]+),\s+([\d.]+)\s+\]')  # one phone, one line
    text = phone.sub(r"[\1, \2, \3]", json.dumps(entry, indent=1))
    (ASSETS / "demo.json").write_text(text + "\n", "utf-8")


def make_clip() -> None:
    """Film the two people and say how large the parts are."""
    build_clip(demo_people(), ASSETS / "demo.mp4", duration_s=DURATION_S, seed=7, crf=23, preset="slow")
    for path in sorted(ASSETS.iterdir()):
        print(f"{path.name:24s} {path.stat().st_size / 1000:8.1f} kB")


if __name__ == "__main__":
    make_voices()
    make_clip()
