"""The shape of a mouth, freed of where it is and whose it is."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d

from lipsep.constants import FPS
from lipsep.errors import FaceError
from lipsep.lips.pose import fill_gaps, find_shots, in_pieces, similarity
from lipsep.system.spool import Spool

POSE_FRAMES = 13  # centred; smoothing of the head's turn and scale for mesh recipes
CENTRE_S = 2.0  # the mouth's resting place is its median over this time
RESTING_MOUTH = np.array(
    [(0.152, 0.492), (0.300, 0.410), (0.402, 0.386), (0.500, 0.403), (0.598, 0.386), (0.700, 0.410), (0.848, 0.492),
     (0.690, 0.597), (0.600, 0.627), (0.500, 0.633), (0.400, 0.627), (0.310, 0.597), (0.193, 0.479), (0.425, 0.487),
     (0.500, 0.491), (0.575, 0.487), (0.807, 0.479), (0.583, 0.497), (0.500, 0.500), (0.417, 0.497)], np.float32
)  # fmt: skip  # everybody's in mesh recipes, in shares of the picture: GRID talker s1's, made symmetric
INNER_PAIRS = ((13, 19), (14, 18), (15, 17))  # of the 20 points: those of the inner lips that face each other
CLOSED = 0.2  # share of the frames that show a mouth at rest
MOTION = 0.015  # of the picture: standard deviation of a talker's mouth points
MOTION_GAIN = 2.0  # a lazy or lively mouth is made to move more or less, at most by this factor
MESH_WIDTH = 64.0  # px of the mean face that make one picture width in mesh recipes; a mouth is 40 to 50 wide


def normalise_mouth(landmarks: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mouth points free of the head's movement.

    The five stable points give the head's place, turn and size in every frame; taken away, the mouth stands upright
    on the mean face. Turn and size are smoothed over 13 frames, the place is not: for four lively heads this halves the
    trembling that smoothing everything over 12 frames leaves (1.5 instead of 2.3 to 3.1 px of the mean face), for still
    ones it adds 0.1 px. What a turning head still shifts goes with the median of the mouth's centre over 2 s.

    Args:
        landmarks: (F, 68, 2) px; values where absent do not matter.
        present: (F,) bool.

    Returns:
        (F, 20, 2) float32: outer lips 0..11, inner lips 12..19, in shares of the picture's side (64 px of the mean
        face), made anonymous by `impersonal_mouth`. Where there is no usable mouth: the resting mouth.

    Raises:
        FaceError: no frame is present.
    """
    mouths, _ = mouth_points(landmarks, present, None)
    with closing(mouths):
        return mouths.read(0, len(present)).copy()


def impersonal_mouth(points: np.ndarray) -> np.ndarray:
    """What a mouth does, without whose mouth it is: its motion from being closed, at a common strength, on one mouth.

    A network that learned lips from few people then meets strangers' mouths in the form that it knows.

    Args:
        points: (F, 20, 2) of one person, in shares of the picture's side.

    Returns:
        (F, 20, 2) float32. The mean of the fifth of the frames in which the mouth is closed most becomes
        `RESTING_MOUTH`; the motion's standard deviation becomes `MOTION` where a gain within 1/2..2 reaches it, so that
        noise in the points of a mouth that rests is not made into talking.
    """
    resting, gain = _manner(points)
    return (RESTING_MOUTH + gain * (points - resting)).astype(np.float32)


def mouth_points(landmarks: np.ndarray, present: np.ndarray, folder: Path | None) -> tuple[Spool, np.ndarray]:
    """What `normalise_mouth` returns, in a temporary file: rows of (20, 2); and which frames are usable, (F,) bool."""
    if not present.any():
        raise FaceError("no frame shows this face, so there is no mouth to normalise")
    usable, shots = find_shots(landmarks, present)
    mouths = Spool((20, 2), folder=folder)
    with closing(Spool((20, 2), folder=folder)) as uprights:
        for shot in shots:
            for piece in in_pieces(shot):
                uprights.append(_upright(landmarks, present, shot, piece))
        upright = uprights.mapped()  # (usable frames, 20, 2)
        resting, gain = _manner(upright)
        for piece in in_pieces(slice(0, len(present))):
            before = np.count_nonzero(usable[: piece.start])
            shown = upright[before : before + np.count_nonzero(usable[piece])]
            mouth = np.tile(RESTING_MOUTH, (piece.stop - piece.start, 1, 1))  # (n, 20, 2)
            mouth[usable[piece]] += gain * (shown - resting)
            mouths.append(mouth)
    return mouths, usable


def _upright(landmarks: np.ndarray, present: np.ndarray, shot: slice, piece: slice) -> np.ndarray:
    """The mouth upright on the mean face, (n, 20, 2) in shares of the picture's side, for a piece of a shot."""
    centre_frames = round(CENTRE_S * FPS) + 1
    around = POSE_FRAMES // 2 + centre_frames // 2  # frames that have a say beyond the piece
    wide = slice(max(shot.start, piece.start - around), min(shot.stop, piece.stop + around))
    stable, mouth = fill_gaps(landmarks, present, wide)
    turns, _ = similarity(uniform_filter1d(stable, POSE_FRAMES, axis=0, mode="nearest"))
    upright = (mouth - stable.mean(1, keepdims=True)) @ turns.transpose(0, 2, 1)  # (n, 20, 2)
    centre = median_filter(upright.mean(1), (centre_frames, 1), mode="nearest")  # (n, 2)
    return ((upright - centre[:, None]) / MESH_WIDTH + 0.5)[piece.start - wide.start :][: piece.stop - piece.start]


def _manner(points: np.ndarray) -> tuple[np.ndarray, float]:
    """How a mouth is when closed, float32 (20, 2), and the gain that brings its motion to the common strength.

    points: (F, 20, 2), of which one piece after the other is in memory.
    """
    pieces = list(in_pieces(slice(0, len(points))))
    above, below = INNER_PAIRS[1]
    gap = np.concatenate([points[piece, below, 1] - points[piece, above, 1] for piece in pieces])  # (F,)
    closed = gap <= np.quantile(gap, CLOSED)
    resting = sum(points[piece][closed[piece]].sum(0, np.float64) for piece in pieces)
    mean = sum(points[piece].sum(0, np.float64) for piece in pieces) / len(points)  # (20, 2)
    variance = sum(((points[piece] - mean) ** 2).sum(0) for piece in pieces) / len(points)
    gain = float(np.clip(MOTION / (np.sqrt(np.mean(variance)) + 1e-9), 1 / MOTION_GAIN, MOTION_GAIN))
    return (resting / np.count_nonzero(closed)).astype(np.float32), gain
