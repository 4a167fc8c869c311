"""The synthetic corpus, whole clips: people who talk over each other, side by side, with every clean voice known.

A clip is a list of people and a list of shots. A shot is a row (or a column) of panels, each with one person or nobody,
so that a late arrival, a departure, a change of places and a camera cut are all written the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import av
import numpy as np
import soundfile
from puppets import Puppet, head_motion, load_portrait
from scipy.signal import resample_poly

from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.data.synthetic.visemes import Phone, mouth_curves
from lipsep.errors import MediaError

WALL = (92, 98, 104)  # RGB of a panel that nobody is in
MIXTURE_RATE = 48_000  # Hz, of the sound track: what cameras write
PEAK = 0.9  # louder mixtures are turned down, all voices alike


@dataclass(frozen=True, eq=False)
class Person:
    """Who may appear in a clip.

    Attributes:
        portrait: name for `load_portrait`.
        voice: (T,) float32 at 16 kHz, or None for somebody who says nothing. It starts again when it ends.
        phones: what the mouth does during `voice`, in seconds from its start.
        start_s: where in `voice` this person begins.
        still: a poster: neither head nor mouth moves, whatever the voice.
        heard_offscreen: the voice goes on while the person is not in the picture.
    """

    portrait: str
    voice: np.ndarray | None = None
    phones: tuple[Phone, ...] = ()
    start_s: float = 0.0
    still: bool = False
    heard_offscreen: bool = False


@dataclass(frozen=True)
class Shot:
    """From `start_s` on, panels from left to right (`stacked`: from top to bottom); None is an empty panel."""

    start_s: float
    who: tuple[int | None, ...]
    stacked: bool = False


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip that was written, and the truth about it; P people, F frames, T = 640 * F samples at 16 kHz.

    Attributes:
        path: the video file.
        voices: (P, T) float32, as mixed: the sound track is their sum.
        curves: (P, F, 3) float32, `mouth_curves` as shown.
        visible: (P, F) bool.
        landmarks: (P, F, 68, 2) float32 px, NaN where not visible.
    """

    path: Path
    voices: np.ndarray
    curves: np.ndarray
    visible: np.ndarray
    landmarks: np.ndarray

    @property
    def mixture(self) -> np.ndarray:
        """(T,) float32."""
        return self.voices.sum(axis=0)


def demo_people() -> list[Person]:
    """The two people of the bundled clip, left to right, with their clean voices."""
    folder = files("lipsep") / "assets"
    entry = json.loads((folder / "demo.json").read_text("utf-8"))
    with (folder / "demo_voices.flac").open("rb") as encoded:
        voices, _ = soundfile.read(encoded, dtype="float32")
    people = []
    for column, person in enumerate(entry["people"]):
        phones = tuple(Phone(str(name), start, stop) for name, start, stop in person["phones"])
        people.append(Person(person["portrait"], np.ascontiguousarray(voices[:, column]), phones))
    return people


def at_pace(person: Person, pace: float) -> Person:
    """The same person speaking `pace` times as fast and as high: another voice, with the mouth in step."""
    if person.voice is None:
        return person
    ratio = Fraction(pace).limit_denominator(50)
    voice = resample_poly(person.voice, ratio.denominator, ratio.numerator).astype(np.float32)
    phones = tuple(Phone(p.name, p.start_s / float(ratio), p.stop_s / float(ratio)) for p in person.phones)
    return replace(person, voice=voice, phones=phones)


def build_clip(
    people: Sequence[Person],
    out_path: Path,
    *,
    duration_s: float,
    shots: Sequence[Shot] | None = None,
    size: tuple[int, int] = (960, 540),
    seed: int = 0,
    crf: int = 21,
    preset: str = "veryfast",
) -> Clip:
    """Film people who speak at once: H.264 at 25 fps with AAC at 48 kHz.

    Args:
        people: who there is; the order is that of the result.
        out_path: ``.mp4``, ``.mkv`` or ``.mov``.
        duration_s: rounded to whole frames.
        shots: in order of time, the first at 0; without them everybody stands in one row throughout.
        size: width and height of the video in px, even.
        seed: of the heads' idle movement.
        crf, preset: of the x264 encoder.

    Raises:
        MediaError: no people, shots that do not start at 0 or are not in order, or a shot of somebody unknown.
    """
    shots = list(shots) if shots is not None else [Shot(0.0, tuple(range(len(people))))]
    _check(people, shots)
    n_frames = round(duration_s * FPS)
    starts = [round(shot.start_s * FPS) for shot in shots]
    shot_of_frame = np.searchsorted(starts, np.arange(n_frames), side="right") - 1
    visible = np.array([[k in shots[s].who for s in shot_of_frame] for k in range(len(people))])  # (P, F)
    spoken = [_speak(person, n_frames) for person in people]
    voices = np.stack([voice for voice, _ in spoken])  # (P, T)
    curves = np.stack([mouth for _, mouth in spoken])  # (P, F, 3)
    for k, person in enumerate(people):
        if not person.heard_offscreen:
            voices[k] *= _gate(visible[k])
    voices *= min(1.0, PEAK / max(1e-9, float(np.abs(voices.sum(axis=0)).max())))
    landmarks = np.full((len(people), n_frames, 68, 2), np.nan, np.float32)
    clip = Clip(Path(out_path), voices, curves, visible, landmarks)
    frames = _film(people, shots, shot_of_frame, clip, size, seed)
    _write(clip.path, frames, clip.mixture, size, {"crf": str(crf), "preset": preset})
    return clip


def _check(people: Sequence[Person], shots: list[Shot]) -> None:
    starts = [shot.start_s for shot in shots]
    if not people or not shots:
        raise MediaError(f"{len(people)} people in {len(shots)} shots; a clip needs at least one of each")
    if starts[0] != 0.0 or starts != sorted(starts):
        raise MediaError(f"shots start at {starts} s; the first must start at 0 and the others in order of time")
    unknown = {k for shot in shots for k in shot.who if k is not None and not 0 <= k < len(people)}
    if unknown:
        raise MediaError(f"a shot shows person {min(unknown)}, but people are numbered 0 to {len(people) - 1}")


def _speak(person: Person, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Voice (640 * F,) and mouth (F, 3) of a person for a whole clip."""
    n_samples = n_frames * SAMPLES_PER_FRAME
    if person.voice is None:
        return np.zeros(n_samples, np.float32), np.zeros((n_frames, 3), np.float32)
    skipped = round(person.start_s * SAMPLE_RATE)
    voice = np.resize(person.voice, skipped + n_samples)[skipped:].astype(np.float32)
    length_s = len(person.voice) / SAMPLE_RATE
    phones = []
    for turn in range(int((person.start_s + n_frames / FPS) / length_s) + 1):
        shift_s = turn * length_s - person.start_s
        phones += [Phone(p.name, p.start_s + shift_s, p.stop_s + shift_s) for p in person.phones]
    mouth = np.zeros((n_frames, 3), np.float32) if person.still else mouth_curves(phones, n_frames)
    return voice, mouth


def _gate(visible: np.ndarray, fade_ms: float = 20.0) -> np.ndarray:
    """1 while visible, 0 while not, (640 * F,) float32, with fades so that nothing clicks."""
    n_fade = round(fade_ms / 1000 * SAMPLE_RATE)
    gate = np.repeat(visible.astype(np.float32), SAMPLES_PER_FRAME)
    padded = np.pad(gate, n_fade // 2, mode="edge")
    total = np.concatenate([[0.0], np.cumsum(padded, dtype=np.float64)])
    return ((total[n_fade:] - total[:-n_fade]) / n_fade)[: len(gate)].astype(np.float32)


def _film(
    people: Sequence[Person],
    shots: list[Shot],
    shot_of_frame: np.ndarray,
    clip: Clip,
    size: tuple[int, int],
    seed: int,
) -> Iterator[np.ndarray]:
    """Frames, (H, W, 3) uint8 RGB; fills in `clip.landmarks` on the way."""
    width, height = size
    motion = [head_motion(len(shot_of_frame), seed + k) for k in range(len(people))]
    puppets: dict[tuple[str, int, int], Puppet] = {}
    for index, shot_number in enumerate(shot_of_frame):
        shot = shots[shot_number]
        frame = np.empty((height, width, 3), np.uint8)
        frame[:] = WALL
        edges = np.linspace(0, height if shot.stacked else width, len(shot.who) + 1).round().astype(int)
        for k, near, far in zip(shot.who, edges[:-1], edges[1:], strict=True):
            if k is None:
                continue
            left, top, right, bottom = (0, near, width, far) if shot.stacked else (near, 0, far, height)
            key = (people[k].portrait, right - left, bottom - top)
            if key not in puppets:
                puppets[key] = Puppet(load_portrait(key[0]), *key[1:])
            if people[k].still:
                frame[top:bottom, left:right] = puppets[key].still()
                where = puppets[key].still_landmarks()
            else:
                frame[top:bottom, left:right] = puppets[key].render(clip.curves[k, index], motion[k][index])
                where = puppets[key].landmarks(clip.curves[k, index], motion[k][index])
            clip.landmarks[k, index] = where + np.array([left, top])
        yield frame


def _write(
    path: Path, frames: Iterator[np.ndarray], mixture: np.ndarray, size: tuple[int, int], x264: dict[str, str]
) -> None:
    """Encode frames and the sound (T,) at 16 kHz side by side."""
    up = MIXTURE_RATE // SAMPLE_RATE
    sound = resample_poly(mixture, up, 1).astype(np.float32)[None]  # (1, 3 T)
    per_frame = SAMPLES_PER_FRAME * up
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=FPS, options=x264)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.gop_size = 2 * FPS
        audio = container.add_stream("aac", rate=MIXTURE_RATE, layout="mono")
        audio.bit_rate = 192_000
        for index, picture in enumerate(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            block = np.ascontiguousarray(sound[:, index * per_frame : (index + 1) * per_frame])
            samples = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            samples.sample_rate, samples.pts = MIXTURE_RATE, index * per_frame
            container.mux(audio.encode(samples))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
