"""Where the mouth is: a smooth pose per frame, through gaps and cuts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lipsep.constants import FPS
from lipsep.faces.tracks import PIECE

MOUTH = slice(48, 68)  # of the 68 landmarks: outer lips 0..11, inner lips 12..19
STABLE_POINTS = [33, 36, 39, 42, 45]  # below the nose, corners of the eyes: they do not move with speech
MEAN_FACE = np.array([(128.9, 137.3), (92.5, 94.4), (112.8, 94.9), (145.5, 94.5), (166.7, 93.6)])  # px, the same points
SHORT_GAP_S = 0.2  # gaps up to this long are filled between their neighbours
JUMP = 0.5  # a face that moves by more of its width between the eyes, or grows by more, from one frame to the next is
# in a new shot


def similarity(stable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares similarities from the five stable points to the mean face, without reflection.

    Args:
        stable: (F, 5, 2) px.

    Returns:
        turns (F, 2, 2) and shifts (F, 2), so that ``turn @ point + shift`` lies on the mean face.

    In complex numbers (Umeyama 1991 in two dimensions): a = sum(conj(z) w) / sum(|z|^2) for centred z, w.
    """
    source = stable[..., 0] + 1j * stable[..., 1]  # (F, 5)
    target = MEAN_FACE[:, 0] + 1j * MEAN_FACE[:, 1]
    z, w = source - source.mean(1, keepdims=True), target - target.mean()
    a = (z.conj() * w).sum(1) / np.maximum((np.abs(z) ** 2).sum(1), 1e-9)  # (F,)
    shift = target.mean() - a * source.mean(1)
    turns = np.stack([np.stack([a.real, -a.imag], -1), np.stack([a.imag, a.real], -1)], -2)
    return turns, np.stack([shift.real, shift.imag], -1)


def find_shots(landmarks: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, list[slice]]:
    """Usable (F,) bool, which are the frames present and those in short gaps between them, and the shots: stretches of
    usable frames in which the face moves without a jump."""
    seen = np.flatnonzero(present)
    usable = present.copy()
    stable = np.concatenate([landmarks[piece][:, STABLE_POINTS] for piece in in_pieces(slice(0, len(present)))])[seen]
    moved = np.linalg.norm(np.diff(stable.mean(1), axis=0), axis=-1)  # stable: (K, 5, 2)
    eyes = np.linalg.norm(stable[:, 1] - stable[:, 4], axis=-1)
    gaps = np.diff(seen) - 1
    grown = np.abs(np.log(eyes[1:] / eyes[:-1]))
    joined = (gaps <= SHORT_GAP_S * FPS) & (moved <= JUMP * eyes[:-1] * (gaps + 1)) & (grown <= JUMP)
    first = seen[np.concatenate([[True], ~joined])] if len(seen) else seen
    last = seen[np.concatenate([~joined, [True]])] if len(seen) else seen
    shots = [slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True)]
    for shot in shots:
        usable[shot] = True
    return usable, shots


def in_pieces(stretch: slice) -> Iterator[slice]:
    """A long stretch of frames in pieces that fit into memory."""
    for start in range(stretch.start, stretch.stop, PIECE):
        yield slice(start, min(start + PIECE, stretch.stop))


def fill_gaps(landmarks: np.ndarray, present: np.ndarray, piece: slice) -> tuple[np.ndarray, np.ndarray]:
    """The stable points (n, 5, 2) and the mouth (n, 20, 2) in a piece of a shot, short gaps filled linearly."""
    places = np.array(landmarks[piece], np.float64)  # (n, 68, 2)
    missing = np.flatnonzero(~present[piece]) + piece.start
    if len(missing):
        reach = round(SHORT_GAP_S * FPS)  # the frames around a gap may lie beyond the piece
        start = max(piece.start - reach, 0)
        seen = np.flatnonzero(present[start : piece.stop + reach]) + start
        after = np.searchsorted(seen, missing)
        before, after = seen[after - 1], seen[after]
        share = ((missing - before) / (after - before))[:, None, None]
        places[missing - piece.start] = landmarks[before] * (1 - share) + landmarks[after] * share
    return places[:, STABLE_POINTS], places[:, MOUTH]
