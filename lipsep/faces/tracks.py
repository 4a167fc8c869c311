"""Who is visible when: frames in, one `FaceTrack` per person out. The pictures are seen once and never kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from lipsep.constants import FPS, Hook
from lipsep.errors import FaceError
from lipsep.faces.tracking import BRIEF_S, Person, Tracker
from lipsep.system.spool import Spool

MEAN_RGB = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet, in shares of full scale
STD_RGB = np.array([0.229, 0.224, 0.225], np.float32)
MIN_PRESENT_S = 0.5  # a person must be visible this long ...
MIN_PRESENT_SHARE = 0.05  # ... and this share of the time of the most present person, to be reported
STILL_MOUTH = 0.01  # `FaceTrack.mouth_motion` below which a face hardly speaks
PIECE = 300 * FPS  # frames of landmarks that are in memory at once
TOGETHER_S = 1.0  # people who appear within this time count as arriving together, and are ordered as one reads


class Frame(Protocol):
    """What is needed of a frame: RGB uint8 (H, W, 3)."""

    image: np.ndarray


@dataclass(frozen=True)
class FaceTrack:
    """One person through the whole video of F frames.

    Attributes:
        person: 1, 2, ... at first appearance, from left to right; in galleries row by row.
        present: (F,) bool, the face was seen in this frame.
        boxes: (F, 4) float32 x0, y0, x1, y1 px; NaN where absent.
        landmarks: (F, 68, 2) float32 px, whole numbers at pixel centres, iBUG-68 order; NaN where absent. Those that
            `find_faces` gives lie in a temporary file and are read where they are touched.
        thumbnail: (192, 192, 3) uint8 RGB, the face upright in its largest frontal view.
    """

    person: int
    present: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    thumbnail: np.ndarray

    @property
    def mouth_motion(self) -> float:
        """How much the gap between the lips changes: its standard deviation over the width between the eyes' outer
        corners. Measured: 0.015 to 0.077 for 64 tracks of seven people who talk; for still portraits 0.002, at worst
        0.009 (128 px wide, in heavy noise)."""
        upper, lower, left, right = (self.landmarks[:, k][self.present] for k in (62, 66, 36, 45))
        gap = np.linalg.norm(upper - lower, axis=-1)
        width = np.linalg.norm(left - right, axis=-1)
        return float(np.std(gap / np.maximum(width, 1e-6)))

    @property
    def lips_move(self) -> bool:
        """Whether the person may be speaking at all: no poster, nobody who is silent throughout."""
        return self.mouth_motion >= STILL_MOUTH


def face_picture(thumbnail: np.ndarray, size: int) -> np.ndarray:
    """A face as networks that know faces want it: uint8 (H, W, 3) RGB -> float32 (3, size, size), each colour with the
    mean and deviation of ImageNet taken out."""
    picture = cv2.resize(thumbnail, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
    return ((picture - MEAN_RGB) / STD_RGB).transpose(2, 0, 1)


def find_faces(
    frames: Iterable[Frame],
    *,
    n_frames: int | None = None,
    speakers: int | None = None,
    detect_every_n: int = 5,
    face_scale: float = 1.0,
    min_visible_s: float = MIN_PRESENT_S,
    folder: Path | None = None,
    hook: Hook | None = None,
) -> list[FaceTrack]:
    """Find and follow everyone in a video.

    Args:
        frames: consecutive frames, read once; RGB, any size, the size may change.
        n_frames: how many there will be, if known; only for `hook`.
        speakers: keep this many people, the most present ones. Default: everyone who is visible for at least
            `min_visible_s` (half of the video if it is shorter than twice that) and 5 % of the time of the most present
            person.
        detect_every_n: look for new faces every so many frames; cuts and lost faces are looked at at once.
        face_scale: scales the detector's view. At 1, most new faces are found at once from about 1/17 of the picture's
            longer side upwards and within a second from 1/44; at 2, from half of that, at four times the cost.
        folder: where temporary files go; default: the system's. About 0.1 GB per person and hour.
        hook: called as ``hook("faces", completed, total)`` after each frame.

    Returns:
        One track per person, people who arrive within a second of each other as one reads: from left to right, and
        row by row where faces stand below each other. Empty if nobody is visible: the caller decides whether that is an
        error.

    Raises:
        FaceError: `speakers`, `detect_every_n` or `face_scale` is not positive; or somebody is visible, but nobody for
            as long as it takes.
        OutputError: the temporary files cannot be written.
    """
    if (speakers is not None and speakers < 1) or detect_every_n < 1 or not face_scale > 0:
        raise FaceError(
            f"speakers ({speakers}), detect_every_n ({detect_every_n}) and face_scale ({face_scale}) must be positive"
        )
    tracker = Tracker(detect_every_n, face_scale, folder, brief_s=min(BRIEF_S, min_visible_s))
    for frame in frames:
        tracker.step(frame.image)
        if hook:
            hook("faces", tracker.n_frames, n_frames)
    tracks = _report(tracker.people, tracker.n_frames, speakers, min_visible_s, folder)
    if not tracks and tracker.longest_frames:
        longest_s = tracker.longest_frames / FPS
        raise FaceError(
            f"somebody is visible, but for {longest_s:.2g} s at most, and at least {min_visible_s:g} s are asked for: "
            f"--min-visible-s {max(1 / FPS, longest_s):.2g} takes them all the same"
        )
    return tracks


def _report(
    people: list[Person], n_frames: int, speakers: int | None, min_visible_s: float, folder: Path | None
) -> list[FaceTrack]:
    """The tracks of those who matter, in order."""
    most = max((len(person.frames) for person in people), default=0)
    if speakers is None:
        least = max(min(min_visible_s * FPS, n_frames / 2), MIN_PRESENT_SHARE * most)
        kept = [person for person in people if len(person.frames) >= least]
    else:
        kept = sorted(people, key=lambda person: -len(person.frames))[:speakers]
    return [_track(number, person, n_frames, folder) for number, person in enumerate(_in_order(kept), 1)]


def _in_order(people: list[Person]) -> list[Person]:
    """By first appearance; those who appear together as one reads."""
    boxes = {person: person.seen(0, 1)[1][0] for person in people}  # the first ones
    waiting = sorted(people, key=lambda person: (person.frames[0], boxes[person][0]))
    ordered: list[Person] = []
    while waiting:
        until = waiting[0].frames[0] + TOGETHER_S * FPS
        together = [person for person in waiting if person.frames[0] < until]
        ordered += [together[k] for k in reading_order(np.stack([boxes[person] for person in together]))]
        waiting = waiting[len(together) :]
    return ordered


def reading_order(boxes: np.ndarray) -> list[int]:
    """Indices of boxes (K, 4) x0, y0, x1, y1 as one reads: row by row where some stand below each other (the gallery of
    a call), else from left to right, however tall the people are."""
    x, y = (boxes[:, :2] + boxes[:, 2:]).T / 2
    apart = y[:, None] > boxes[None, :, 3]  # [a, b]: the middle of a lies below all of b
    in_column = (boxes[None, :, 0] < x[:, None]) & (x[:, None] < boxes[None, :, 2])
    if not (apart & in_column).any():
        return np.argsort(x, kind="stable").tolist()
    ordered: list[int] = []
    left = set(range(len(boxes)))
    while left:
        top = min(left, key=lambda k: y[k])
        row = [k for k in left if not apart[k, top]]
        ordered += sorted(row, key=lambda k: x[k])
        left -= set(row)
    return ordered


def _track(number: int, person: Person, n_frames: int, folder: Path | None) -> FaceTrack:
    frames = np.asarray(person.frames)
    present = np.zeros(n_frames, bool)
    boxes = np.full((n_frames, 4), np.nan, np.float32)
    landmarks = Spool((68, 2), folder=folder)
    present[frames] = True
    for start in range(0, n_frames, PIECE):
        stop = min(start + PIECE, n_frames)
        first, last = np.searchsorted(frames, [start, stop])
        piece = np.full((stop - start, 68, 2), np.nan, np.float32)
        piece[frames[first:last] - start], boxes[frames[first:last]] = person.seen(first, last)
        landmarks.append(piece)
    return FaceTrack(number, present, boxes, landmarks.mapped(), person.thumbnail)
