"""Who speaks when (speaker diarization, active speaker detection): told from each person's voice and lips together.

A voice that was separated holds a rest of what others say, so its loudness alone says little about a pause; lips alone
move for laughing and chewing too. Per video frame and person two kinds of evidence are added up: by how many decibels
the person's voice is above the loudest of the others (at most EVEN_DB either way), and how much the lips move, compared
with how they move while this person speaks. Frames with little sound at all are nobody's (voice activity). Gaps shorter
than a pause between words are closed, shorter bursts left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from lipsep.constants import FPS, SAMPLES_PER_FRAME
from lipsep.faces.tracks import PIECE, FaceTrack
from lipsep.system.spool import Spool

LEVEL_FRAMES = 5  # over which loudness is averaged, 0.2 s
LIPS_FRAMES = 11  # over which the movement of lips is averaged, 0.44 s: consonants that close them do not end speech
FLOOR_DB, FLOOR_DBFS = -30.0, -60.0  # below the loud parts of all voices, and below full scale: nobody speaks
EVEN_DB = 12.0  # a lead of this many decibels over everybody else is as much as the voice can say
ALONE = 0.25  # the lead, in EVEN_DB, of who is the only one visible: then lips decide
LIPS_WEIGHT = 1.0  # of the lips, where the voice has one
REST_SPEED = 0.10  # 1/s, of the gap between the lips in widths between the eyes: what landmarks of a still face tremble
PAUSE_FRAMES = 10  # 0.4 s: shorter gaps belong to speech
BURST_FRAMES = 5  # 0.2 s: shorter stretches are no speech
INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # of 68 landmarks, above and below


@dataclass(frozen=True)
class Segment:
    """Somebody speaks from `start_s` until `end_s`."""

    person: int
    start_s: float
    end_s: float


def find_speech(
    tracks: Sequence[FaceTrack], voices: Sequence[Spool], n_samples: int, lips_later_frames: int = 0
) -> list[Segment]:
    """The stretches in which each person speaks, in order of time.

    Args:
        voices: at 16 kHz, in the order of `tracks`.
        lips_later_frames: by how many frames the lips are to be shown later to meet the sound.
    """
    n_frames = -(-n_samples // SAMPLES_PER_FRAME)
    levels_db = np.stack([level_db(voice, n_frames) for voice in voices])  # (n_people, F)
    speeds = np.stack([np.roll(lip_speed(track, n_frames), lips_later_frames) for track in tracks])  # (n_people, F)
    segments = []
    for track, speaks in zip(tracks, who_speaks(levels_db, speeds), strict=True):
        for start, stop in stretches(speaks):
            end_s = min(stop * SAMPLES_PER_FRAME, n_samples) * 1.0 / SAMPLES_PER_FRAME / FPS
            segments.append(Segment(track.person, start / FPS, round(end_s, 3)))
    return sorted(segments, key=lambda each: (each.start_s, each.person))


def who_speaks(levels_db: np.ndarray, speeds: np.ndarray) -> np.ndarray:
    """(n_people, F) loudness of voices in dB of full scale, (n_people, F) speed of lips -> (n_people, F) bool."""
    loudest = levels_db.max(0)  # (F,)
    heard = levels_db > max(np.percentile(loudest, 95) + FLOOR_DB, FLOOR_DBFS)
    lead = np.full_like(levels_db, ALONE)  # in EVEN_DB
    for k in range(len(levels_db)):
        others = np.delete(levels_db, k, axis=0)
        if len(others):
            lead[k] = np.clip((levels_db[k] - others.max(0)) / EVEN_DB, -1, 1)
    usual = []
    for speed, own in zip(speeds, heard & (lead > 0), strict=True):
        shown = speed[own & np.isfinite(speed)]
        usual.append(max(np.median(shown) if len(shown) else 0.0, REST_SPEED))
    moving = np.clip(speeds / np.array(usual)[:, None], 0, 1.5) - 0.5  # from -0.5 for lips at rest to 1
    moving = np.nan_to_num(moving)  # who is heard but not seen is told by the voice alone
    evidence = lead + LIPS_WEIGHT * moving
    return np.stack([_without_short(row) for row in heard & (evidence > 0)])


def level_db(voice: Spool, n_frames: int) -> np.ndarray:
    """Loudness per video frame, dB of full scale, averaged over LEVEL_FRAMES: (n_frames,)."""
    power = np.zeros(n_frames)
    for start, block in voice.blocks(PIECE * SAMPLES_PER_FRAME):
        whole = np.pad(block, (0, -len(block) % SAMPLES_PER_FRAME)).reshape(-1, SAMPLES_PER_FRAME)
        first = start // SAMPLES_PER_FRAME
        power[first : first + len(whole)] = np.square(whole, dtype=np.float64).mean(1)
    return 10 * np.log10(uniform_filter1d(power, LEVEL_FRAMES, mode="nearest") + 1e-12)


def lip_speed(track: FaceTrack, n_frames: int) -> np.ndarray:
    """How fast the gap between the inner lips changes: widths between the outer eye corners per second, (n_frames,);
    NaN where the person is not seen."""
    n = min(n_frames, len(track.present))
    gap = np.full(n_frames, np.nan)
    for start in range(0, n, PIECE):
        points = np.asarray(track.landmarks[start : min(start + PIECE, n)])  # (m, 68, 2)
        width = np.linalg.norm(points[:, 36] - points[:, 45], axis=-1)
        opened = sum(np.linalg.norm(points[:, above] - points[:, below], axis=-1) for above, below in INNER_LIPS)
        gap[start : start + len(points)] = opened / len(INNER_LIPS) / np.maximum(width, 1e-6)
    speed = np.nan_to_num(np.abs(np.diff(gap, prepend=gap[:1]))) * FPS  # 0 where somebody comes
    return np.where(np.isnan(gap), np.nan, uniform_filter1d(speed, LIPS_FRAMES, mode="nearest"))


def stretches(on: np.ndarray) -> list[tuple[int, int]]:
    """bool (F,) -> [(start, stop), ...] in frames, stop exclusive."""
    edges = np.flatnonzero(np.diff(np.r_[False, on, False]))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _without_short(speaks: np.ndarray) -> np.ndarray:
    """Pauses closed, then bursts left out."""
    closed = speaks.copy()
    for (_, before), (after, _) in zip(stretches(speaks)[:-1], stretches(speaks)[1:], strict=True):
        if after - before < PAUSE_FRAMES:
            closed[before:after] = True
    for start, stop in stretches(closed):
        if stop - start < BURST_FRAMES:
            closed[start:stop] = False
    return closed


# ------------------------------------------------------------------------------------------ as other programs read it


def rttm(segments: Sequence[Segment], recording: str, names: dict[int, str]) -> str:
    """NIST's Rich Transcription Time Marked lines, as diarization tools read and score them; no name holds a space."""
    recording = "_".join(recording.split()) or "recording"
    lines = [
        f"SPEAKER {recording} 1 {each.start_s:.3f} {each.end_s - each.start_s:.3f} <NA> <NA> "
        f"{'_'.join(names[each.person].split())} <NA> <NA>\n"
        for each in segments
    ]
    return "".join(lines)


def audacity_labels(segments: Sequence[Segment], names: dict[int, str]) -> str:
    """A label track: File > Import > Labels in Audacity."""
    return "".join(f"{each.start_s:.6f}\t{each.end_s:.6f}\t{names[each.person]}\n" for each in segments)


def table(segments: Sequence[Segment], names: dict[int, str]) -> str:
    """CSV with a line per stretch of speech."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["person", "name", "start_s", "end_s"])
    writer.writerows([each.person, names[each.person], f"{each.start_s:.3f}", f"{each.end_s:.3f}"] for each in segments)
    return text.getvalue()
