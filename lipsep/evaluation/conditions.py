"""Robustness: each case again under conditions that real video brings, all reproducible from the case's name.

- noise: added at -5 ... 20 dB, the power of the mixture against that of the noise;
- talkers: 3 and 4 voices, the further ones from other cases, as loud as the mean of those there;
- offset: lips up to 200 ms early (negative) or late against the sound, in whole video frames of 40 ms;
- occlusion: a grey square over a quarter or all of every picture, at one place, as by a microphone or a hand;
- off screen: a third voice that nobody asks for; or one of the two people is heard and never seen, and not asked for;
- hidden: one of the people, drawn by the case's name, never shows a mouth and is asked for all the same;
- room: everyone speaks from another place in a small room (4.6 x 3.4 x 2.5 m, reverberation time 0.25 s, image
  sources by pyroomacoustics); what is to be heard is each voice as the room makes it sound;
- missing: no usable picture for half or for all of the time (zeros, as `lipsep.lips.reading` gives);
- swap: the faces change places. The voices must follow: scores stay, and the two-cue share stays.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.errors import MediaError, install_line
from lipsep.evaluation.cases import Case, Cases
from lipsep.media.reading import load_audio

CLEAN = "as given"
NOISE_DB = (-5, 0, 5, 10, 15, 20)
TALKERS = (3, 4)
OFFSET_MS = (-200, -120, -40, 40, 120, 200)
OCCLUDED = (0.25, 1.0)  # share of the picture's area
MISSING = (0.5, 1.0)  # share of the time

Apply = Callable[["Setting", Case, int], Case]


@dataclass(frozen=True)
class Condition:
    """A name for tables, such as "noise 5 dB", and what happens to a case."""

    name: str
    apply: Apply
    needs_lips: bool = False


@dataclass(frozen=True)
class Setting:
    """What conditions may draw from: the other cases, and noise files (none: pink noise is made)."""

    cases: Cases
    noise_files: tuple[Path, ...] = ()


def conditions(sweeps: list[str]) -> list[Condition]:
    """The cases as given, then every level of the named sweeps.

    Raises:
        MediaError: there is no such sweep; the message lists them.
    """
    wanted = list(SWEEPS) if "all" in sweeps else list(dict.fromkeys(sweeps))
    if unknown := [name for name in wanted if name not in SWEEPS]:
        raise MediaError(f"no sweep named {', '.join(unknown)}: choose from {', '.join(SWEEPS)}, all")
    return [Condition(CLEAN, lambda _setting, case, _index: case), *(c for name in wanted for c in SWEEPS[name])]


def find_noise(folder: Path | None) -> tuple[Path, ...]:
    """Sound files of a folder and its subfolders, sorted.

    Raises:
        MediaError: there are none.
    """
    if folder is None:
        return ()
    files = tuple(sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".wav", ".flac", ".ogg", ".opus")))
    if not files:
        raise MediaError(f"no .wav, .flac, .ogg or .opus file in {folder}: name a folder of noise")
    return files


def pink_noise(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls by 3 dB per octave: (T,) float32, mean power 1."""
    spectrum = np.fft.rfft(rng.normal(size=n_samples))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, n_samples)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def _rng(case: Case) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(case.name.encode()))


def _noise(snr_db: float) -> Apply:
    def apply(setting: Setting, case: Case, _index: int) -> Case:
        rng, n_samples = _rng(case), len(case.mixture)
        if setting.noise_files:
            noise = load_audio(setting.noise_files[int(rng.integers(len(setting.noise_files)))])
            noise = np.resize(noise, n_samples)  # repeated when short
        else:
            noise = pink_noise(n_samples, rng)
        power = np.mean(noise.astype(np.float64) ** 2)
        gain = np.sqrt(np.mean(case.mixture.astype(np.float64) ** 2) / max(power, 1e-12) / 10 ** (snr_db / 10))
        return replace(case, mixture=(case.mixture + gain * noise).astype(np.float32))

    return apply


def _talkers(n_talkers: int) -> Apply:
    def apply(setting: Setting, case: Case, index: int) -> Case:
        n_cases = len(setting.cases.names)
        for step in range(1, n_cases):
            other = setting.cases.load((index + step) % n_cases)
            for k, source in enumerate(other.sources):
                if source not in case.sources:
                    case = _joined(case, other, k)
                if len(case.sources) == n_talkers:
                    return case
        raise MediaError(f"the data has too few clips for mixtures of {n_talkers}: leave the sweep 'talkers' out")

    return apply


def _joined(case: Case, other: Case, k: int) -> Case:
    """One voice more, zero-padded or cropped, at the mean power of those there."""
    voice = np.zeros_like(case.mixture)
    voice[: other.references.shape[1]] = other.references[k, : len(voice)]
    power = np.mean(np.square(voice, dtype=np.float64))
    voice *= np.sqrt(np.mean(np.square(case.references, dtype=np.float64)) / max(power, 1e-12))
    lips = None
    if case.lips is not None:
        n_frames = case.lips.shape[1]
        lips = np.zeros_like(case.lips[:1])
        lips[0, : other.lips.shape[1]] = other.lips[k, :n_frames]
        lips = np.concatenate([case.lips, lips])
    return replace(
        case,
        sources=(*case.sources, other.sources[k]),
        talkers=(*case.talkers, other.talkers[k]),
        gains_db=(*case.gains_db, float(np.mean(case.gains_db))),
        mixture=case.mixture + voice,
        references=np.concatenate([case.references, voice[None]]),
        lips=lips,
        faces=(*case.faces, *other.faces[k : k + 1]),
    )


def _third_voice(setting: Setting, case: Case, index: int) -> Case:
    """One voice more in the mixture, of somebody who is neither seen nor asked for."""
    joined = _talkers(len(case.sources) + 1)(setting, case, index)
    return replace(case, mixture=joined.mixture)


def _alone(_setting: Setting, case: Case, _index: int) -> Case:
    """One person of the case, as if nobody else were in the picture."""
    k = int(_rng(case).integers(len(case.sources)))
    return replace(
        case,
        sources=case.sources[k : k + 1],
        talkers=case.talkers[k : k + 1],
        gains_db=case.gains_db[k : k + 1],
        references=case.references[k : k + 1],
        lips=case.lips[k : k + 1],
        faces=case.faces[k : k + 1],
    )


def _hidden(_setting: Setting, case: Case, _index: int) -> Case:
    lips = case.lips.copy()
    lips[int(_rng(case).integers(len(lips)))] = 0
    return replace(case, lips=lips)


ROOM_M = (4.6, 3.4, 2.5)
ROOM_T60_S = 0.25
MICROPHONE_M = (2.1, 1.2, 1.2)


def _room(_setting: Setting, case: Case, _index: int) -> Case:
    """The voices in a room, each 1 to 2 m from the microphone, its first arrival in step with its lips."""
    try:
        import pyroomacoustics as room_acoustics
    except ImportError:
        raise MediaError(f"the sweep 'room' needs pyroomacoustics: {install_line('eval')}") from None
    rng, n_samples = _rng(case), len(case.mixture)
    absorption, order = room_acoustics.inverse_sabine(ROOM_T60_S, ROOM_M)
    room = room_acoustics.ShoeBox(
        ROOM_M, fs=SAMPLE_RATE, materials=room_acoustics.Material(absorption), max_order=min(order, 12)
    )
    room.add_microphone(MICROPHONE_M)
    for _ in case.references:
        angle, distance = rng.uniform(0.15 * np.pi, 0.85 * np.pi), rng.uniform(1.0, 2.0)  # in front of it
        ahead = np.array([np.cos(angle), np.sin(angle), 0.0]) * distance
        room.add_source(np.clip(MICROPHONE_M + ahead, 0.2, np.subtract(ROOM_M, 0.2)))
    room.compute_rir()
    voices = []
    for reference, response in zip(case.references, room.rir[0], strict=True):
        direct = int(np.abs(response).argmax())
        voice = fftconvolve(reference, response)[direct : direct + n_samples]
        voices.append(voice * np.sqrt(np.mean(np.square(reference)) / max(np.mean(np.square(voice)), 1e-12)))
    references = np.stack(voices).astype(np.float32)
    return replace(case, references=references, mixture=references.sum(0))


def _offset(milliseconds: int) -> Apply:
    frames = round(milliseconds * FPS / 1000)

    def apply(_setting: Setting, case: Case, _index: int) -> Case:
        n_frames = case.lips.shape[1]
        shown = np.clip(np.arange(n_frames) - frames, 0, n_frames - 1)  # late lips show what was said before
        return replace(case, lips=case.lips[:, shown])

    return apply


def _occlusion(share: float) -> Apply:
    def apply(_setting: Setting, case: Case, _index: int) -> Case:
        size = case.lips.shape[-1]
        side = round(size * share**0.5)
        rng, lips = _rng(case), case.lips.copy()
        for pictures in lips:
            top, left = rng.integers(0, size - side + 1, 2)
            pictures[:, top : top + side, left : left + side] = 0
        return replace(case, lips=lips)

    return apply


def _missing(share: float) -> Apply:
    def apply(_setting: Setting, case: Case, _index: int) -> Case:
        n_frames = case.lips.shape[1]
        length = round(n_frames * share)
        rng, lips = _rng(case), case.lips.copy()
        for pictures in lips:
            start = int(rng.integers(0, n_frames - length + 1))
            pictures[start : start + length] = 0
        return replace(case, lips=lips)

    return apply


def _swap(_setting: Setting, case: Case, _index: int) -> Case:
    return replace(
        case,
        sources=case.sources[::-1],
        talkers=case.talkers[::-1],
        gains_db=case.gains_db[::-1],
        references=case.references[::-1].copy(),
        lips=case.lips[::-1].copy(),
        faces=case.faces[::-1],
    )


SWEEPS: dict[str, list[Condition]] = {
    "noise": [Condition(f"noise {level} dB", _noise(level)) for level in NOISE_DB],
    "talkers": [Condition(f"{n} talkers", _talkers(n)) for n in TALKERS],
    "off screen": [
        Condition("a third voice off screen", _third_voice),
        Condition("one visible, the other off screen", _alone, needs_lips=True),
    ],
    "hidden": [Condition("one mouth never visible", _hidden, needs_lips=True)],
    "room": [Condition("a small room", _room)],
    "offset": [Condition(f"lips {level:+d} ms", _offset(level), needs_lips=True) for level in OFFSET_MS],
    "occlusion": [Condition(f"{s:.0%} of the mouth hidden", _occlusion(s), needs_lips=True) for s in OCCLUDED],
    "missing": [Condition(f"lips missing {s:.0%} of the time", _missing(s), needs_lips=True) for s in MISSING],
    "swap": [Condition("faces swapped", _swap, needs_lips=True)],
}
