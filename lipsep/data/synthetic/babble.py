"""A corpus from nothing: many talkers who babble, each voice and its mouth made from the same phones.

Nonsense words of consonants and vowels are drawn at random; from the phones and their times follow the voice (a source
of pulses or noise through moving formants: Fant's source-filter model, with the vowel formants of Peterson and Barney
1952) and the mouth (`data.synthetic.visemes`). Nobody understands it, but lips and sound belong together as they do in
speech: loudness, vowel colour, closures and pauses can all be read from the mouth. Each talker has a face too, drawn in
a few strokes; small heads have small voices. It needs no download and makes an hour of speech in about a minute, so
that every recipe can be tried out.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.signal import istft, stft

from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.data.clips.clips import MOUTH_POINTS, TalkingClip, TalkingClips, pack
from lipsep.data.synthetic.visemes import Phone, mouth_curves

WINDOW = 512  # samples of the filter's spectrum
HOP = 128  # 8 ms: how often the filter moves
GLIDE_S = 0.012  # from phone to phone
PAUSES_S = (0.5, 1.3)  # between words: long, so that gating one voice by its mouth is worth much

# Vowels: frequencies of the first three formants in Hz, male talkers; the talker's size scales them.
_VOWELS = {
    "iy": (270, 2290, 3010),
    "ih": (390, 1990, 2550),
    "eh": (530, 1840, 2480),
    "ae": (660, 1720, 2410),
    "aa": (730, 1090, 2440),
    "ao": (570, 840, 2410),
    "uh": (440, 1020, 2240),
    "uw": (300, 870, 2240),
    "er": (490, 1350, 1690),
}
_LOUDNESS = {"iy": 0.6, "ih": 0.7, "eh": 0.9, "ae": 1.0, "aa": 1.0, "ao": 0.95, "uh": 0.7, "uw": 0.6, "er": 0.7}
_NASALS = {"m": (250, 1100, 2200), "n": (250, 1500, 2500)}
_FRICATIVES = {"s": (6000, 1500), "sh": (3200, 1200), "f": (4500, 3500)}  # centre and width of the noise in Hz
_STOPS = {"p": (1000, 1200), "b": (600, 600), "t": (4000, 1800), "d": (2800, 1400), "k": (1800, 700)}
_CONSONANTS = ("m", "n", "s", "sh", "f", "p", "b", "t", "d", "k")
FACE_SIZE = 64  # pixels
_FACE_COLOURS = ((110, 240), (0, 150), (0, 256), (0, 100))  # skin, hair, wall, eyes: from, and below
_BANDWIDTHS_HZ = (90.0, 130.0, 200.0)
_FORMANT_GAINS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Talker:
    """One voice and the mouth that goes with it.

    Attributes:
        pitch_hz: middle of the voice's pitch.
        formant_scale: 1 for a tall talker, about 1.2 for a small one.
        pace: 1.2 speaks 20 % faster.
        breath: share of noise in the voiced sound.
        mouth_width, lip_thickness: of the mouth at rest, in shares of the picture's side.
    """

    pitch_hz: float
    formant_scale: float
    pace: float
    breath: float
    mouth_width: float
    lip_thickness: float


def synthetic_corpus(n_talkers: int, clips_per_talker: int, clip_s: float, seed: int) -> TalkingClips:
    """Talkers who babble; a clip depends on the seed, its talker and its number only.

    Args:
        n_talkers, clips_per_talker: clip `c` of talker `t` is named ``talker<t>-<c>``.
        clip_s: length of every clip in seconds, brought to whole video frames.
        seed: another seed gives other talkers.
    """
    n_frames = round(clip_s * FPS)
    clips = []
    for number in range(n_talkers):
        talker = draw_talker(np.random.default_rng((seed, number)))
        face = draw_face(talker, np.random.default_rng((seed, number, 0, 1)))[None]  # (1, 64, 64, 3)
        for clip in range(clips_per_talker):
            rng = np.random.default_rng((seed, number, clip + 1))
            phones = babble(n_frames / FPS, talker.pace, rng)
            voice = speak(phones, talker, n_frames * SAMPLES_PER_FRAME, rng)
            mouth = mouth_points(mouth_curves(phones, n_frames), talker)
            name = f"talker{number:03d}"
            clips.append(TalkingClip(f"{name}-{clip:03d}", name, voice, mouth, face=face))
    return pack(clips)


def with_foreign_mouths(clips: TalkingClips) -> TalkingClips:
    """The same voices with the mouths of other clips: what a network that truly watches lips cannot learn from."""
    half = int(clips.n_frames[: len(clips) // 2].sum())
    mouths = np.roll(clips.mouths, half, axis=0)
    return TalkingClips(clips.names, clips.talkers, clips.n_frames, clips.voices, mouths, faces=clips.faces)


def draw_talker(rng: np.random.Generator) -> Talker:
    """A random talker; pitch and size of the vocal tract go together loosely, as in people."""
    height = rng.random()
    return Talker(
        pitch_hz=float(90 * 2 ** (1.4 * np.clip(height + rng.normal(0, 0.15), 0, 1))),  # 90 to 240 Hz
        formant_scale=float(0.95 + 0.25 * height),
        pace=float(rng.uniform(0.85, 1.2)),
        breath=float(rng.uniform(0.02, 0.15)),
        mouth_width=float(rng.uniform(0.55, 0.7)),
        lip_thickness=float(rng.uniform(0.05, 0.09)),
    )


def draw_face(talker: Talker, rng: np.random.Generator) -> np.ndarray:
    """Who it is: uint8 (64, 64, 3) RGB, the same for all clips of a talker. Colours of skin, hair and wall, and the
    shape of the head are random; its size goes with the voice's, the mouth is as wide as it is at rest."""
    skin, hair, wall, eyes = (tuple(int(c) for c in rng.integers(low, high, 3)) for low, high in _FACE_COLOURS)
    head = 26 / talker.formant_scale  # px from the middle to the chin: 22 to 27
    half = head * rng.uniform(0.65, 0.85)
    picture = np.full((FACE_SIZE, FACE_SIZE, 3), wall, np.uint8)

    def ellipse(x: float, y: float, width: float, height: float, colour: tuple[int, ...]) -> None:
        cv2.ellipse(picture, (round(32 + x), round(32 + y)), (round(width), round(height)), 0, 0, 360, colour, -1)

    ellipse(0, -4, 1.15 * half, head, hair)
    ellipse(0, rng.uniform(2, 5), half, head * 0.9, skin)
    for side in (-1, 1):
        ellipse(side * 0.45 * half, -3, 0.16 * half, 2, eyes)
    ellipse(0, 3, 2, rng.uniform(2, 5), tuple(c * 4 // 5 for c in skin))
    ellipse(0, 13, 0.6 * talker.mouth_width * half, 20 * talker.lip_thickness, (170, 60, 60))
    return picture


def babble(duration_s: float, pace: float, rng: np.random.Generator) -> list[Phone]:
    """Nonsense words of one to three consonant-vowel syllables between pauses, to the end."""
    phones = []
    time_s = float(rng.uniform(-0.5, 0.3))

    def say(name: str, length_s: float) -> None:
        nonlocal time_s
        phones.append(Phone(name, time_s, time_s + length_s / pace))
        time_s += length_s / pace

    while time_s < duration_s:
        for _ in range(int(rng.integers(1, 4))):
            say(str(rng.choice(_CONSONANTS)), rng.uniform(0.06, 0.11))
            say(str(rng.choice(list(_VOWELS))), rng.uniform(0.09, 0.22))
        say("pau", rng.uniform(*PAUSES_S))
    return phones


def speak(phones: list[Phone], talker: Talker, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """The voice that speaks these phones: (n_samples,) float32 in [-1, 1], 16 kHz, peak 0.5."""
    frequency_hz = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)
    n_steps = -(-n_samples // HOP) + 1
    time_s = np.arange(n_steps) * HOP / SAMPLE_RATE
    voiced, noisy = _filters(phones, talker, time_s, frequency_hz)  # each (n_bins, n_steps)
    pulses = _pulses(talker, n_samples, rng)
    noise = rng.normal(0, 0.1, n_samples)
    spectra = [_spectrum(source) for source in (pulses + talker.breath * noise, noise)]
    spectrum = spectra[0] * voiced + spectra[1] * noisy
    voice = istft(spectrum, SAMPLE_RATE, nperseg=WINDOW, noverlap=WINDOW - HOP)[1][:n_samples]
    return (0.5 * voice / (np.abs(voice).max() + 1e-6)).astype(np.float32)


def mouth_points(curves: np.ndarray, talker: Talker) -> np.ndarray:
    """Mouth curves (F, 3) of `data.synthetic.visemes` -> mouth points (F, 20, 2) as
    `lips.reading.normalise_mouth` gives them: outer lips 0..11 clockwise from the left corner, inner lips 12..19, in
    shares of the picture's side."""
    opening, width, tuck = (curves[:, i, None] for i in range(3))  # (F, 1)
    half = 0.5 * talker.mouth_width * (1 + np.where(width > 0, 0.10, 0.26) * width)
    gap, thickness = 0.4 * talker.mouth_width * opening, talker.lip_thickness
    points = np.empty((len(curves), MOUTH_POINTS, 2))
    for first, n_points, lip in ((0, 12, thickness), (12, 8, 0.0)):
        per_lip = n_points // 2
        across = -np.cos(np.pi * np.arange(n_points) / per_lip)  # -1 left, 1 right, and back below
        shape = np.sqrt(np.clip(1 - across**2, 0, 1))
        above = np.arange(n_points) <= per_lip
        rise = lip * (1 - 0.4 * tuck) + 0.12 * gap
        fall = lip * 1.2 * (1 - tuck) + 0.88 * gap
        points[:, first : first + n_points, 0] = 0.5 + half * (1 if lip else 0.9) * across
        points[:, first : first + n_points, 1] = 0.45 + shape * np.where(above, -rise, fall)
    return points.astype(np.float32)


def _filters(
    phones: list[Phone], talker: Talker, time_s: np.ndarray, frequency_hz: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How loud each frequency of the pulses, and of the noise, is at each time: two of (n_bins, n_steps)."""
    voiced, noisy = (np.zeros((len(frequency_hz), len(time_s))) for _ in range(2))
    for phone in phones:
        rise = np.clip((time_s - phone.start_s) / GLIDE_S + 0.5, 0, 1)
        presence = rise * np.clip((phone.stop_s - time_s) / GLIDE_S + 0.5, 0, 1)
        now = np.flatnonzero(presence)
        envelope = presence[now]
        if phone.name in _VOWELS:
            formants = _resonances(_VOWELS[phone.name], talker.formant_scale, frequency_hz)
            voiced[:, now] += _LOUDNESS[phone.name] * formants[:, None] * envelope
        elif phone.name in _NASALS:
            formants = _resonances(_NASALS[phone.name], talker.formant_scale, frequency_hz)
            voiced[:, now] += 0.25 * formants[:, None] * envelope
        elif phone.name in _FRICATIVES:
            noisy[:, now] += 0.15 * _band(_FRICATIVES[phone.name], frequency_hz)[:, None] * envelope
        elif phone.name in _STOPS:  # silence, then a burst
            burst = envelope * (time_s[now] > phone.stop_s - 0.025)
            noisy[:, now] += 0.3 * _band(_STOPS[phone.name], frequency_hz)[:, None] * burst
    return voiced, noisy


def _resonances(formants_hz: tuple[float, ...], scale: float, frequency_hz: np.ndarray) -> np.ndarray:
    """Three resonances on top of a slope of 6 dB per octave above 500 Hz: (n_bins,)."""
    peaks = sum(
        gain / (1 + np.square((frequency_hz - scale * formant) / bandwidth))
        for formant, bandwidth, gain in zip(formants_hz, _BANDWIDTHS_HZ, _FORMANT_GAINS, strict=True)
    )
    return (peaks + 0.01) / np.maximum(1, frequency_hz / 500)


def _band(centre_and_width_hz: tuple[float, float], frequency_hz: np.ndarray) -> np.ndarray:
    centre, width = centre_and_width_hz
    return np.exp(-0.5 * np.square((frequency_hz - centre) / width))


def _pulses(talker: Talker, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """One pulse per period of the vocal folds; the pitch wanders by a fifth."""
    time_s = np.arange(n_samples) / SAMPLE_RATE
    rate_hz, phase = rng.uniform(0.3, 2.0, 3), rng.uniform(0, 2 * np.pi, 3)
    wander = np.sin(2 * np.pi * rate_hz[:, None] * time_s + phase[:, None]).mean(0)
    cycles = np.cumsum(talker.pitch_hz * 2 ** (0.35 * wander) / SAMPLE_RATE)
    return np.diff(np.floor(cycles), prepend=0.0)


def _spectrum(source: np.ndarray) -> np.ndarray:
    return stft(source, SAMPLE_RATE, nperseg=WINDOW, noverlap=WINDOW - HOP)[2]  # (n_bins, n_steps)
