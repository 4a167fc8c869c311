"""Mouths cut from the film."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

import numpy as np

from lipsep.errors import FaceError
from lipsep.faces.detection import warp
from lipsep.faces.tracks import FaceTrack
from lipsep.lips.pictures import FilmedLips, Lips
from lipsep.lips.pose import fill_gaps, find_shots, in_pieces, similarity
from lipsep.lips.recipes import CROP_SIZE
from lipsep.system.spool import Spool

SMOOTHING_FRAMES = 12  # of the field's recipe: the current frame and the next eleven


class GreyFrame(Protocol):
    """What is needed of a frame: grey uint8 (H, W)."""

    image: np.ndarray


def film_mouths(tracks: Sequence[FaceTrack], frames: Iterable[GreyFrame], size: int, folder: Path | None) -> list[Lips]:
    """The field's recipe for all people in one pass over the frames."""
    n_frames, n_read = len(tracks[0].present) if tracks else 0, 0
    shots = [find_shots(track.landmarks, track.present) for track in tracks]
    maps = [crop_maps(track, *found, size) for track, found in zip(tracks, shots, strict=True)]
    blank = np.zeros((1, size, size), np.uint8)
    with ExitStack() as stack:
        kept = [stack.enter_context(closing(Spool((size, size), np.uint8, folder))) for _ in tracks]
        for _, frame, *affines in zip(range(n_frames), frames, *maps, strict=False):
            n_read += 1
            for spool, affine in zip(kept, affines, strict=True):
                spool.append(blank if affine is None else warp(frame.image, affine, size)[None])
        if n_read < n_frames:
            raise FaceError(f"the video gave {n_read} frames for the lips but {n_frames} for the faces")
        stack.pop_all()
    return [FilmedLips(spool, usable, size) for spool, (usable, _) in zip(kept, shots, strict=True)]


def crop_maps(track: FaceTrack, usable: np.ndarray, shots: list[slice], size: int) -> Iterator[np.ndarray | None]:
    """Where each pixel of the crop lies in its frame: an affine map (2, 3) from crop to frame per frame, None where
    there is no usable mouth.

    As published: the similarity comes from the mean of this and the next eleven frames (at the end of a shot: of its
    last twelve), the crop's centre from this frame's mouth, rounded to whole pixels of the mean face.
    """
    frame = 0
    for shot in shots:
        yield from [None] * (shot.start - frame)
        for piece in in_pieces(shot):
            yield from crop_maps_of(track, shot, piece, size)
        frame = shot.stop
    yield from [None] * (len(usable) - frame)


def crop_maps_of(track: FaceTrack, shot: slice, piece: slice, size: int) -> np.ndarray:
    """`crop_maps` of a piece of a shot: (n, 2, 3)."""
    window = min(SMOOTHING_FRAMES, shot.stop - shot.start)
    starts = np.minimum(np.arange(piece.start, piece.stop), shot.stop - window)
    wide = slice(int(starts[0]), int(starts[-1]) + window)
    stable, mouth = fill_gaps(track.landmarks, track.present, wide)
    sums = np.concatenate([np.zeros((1, 5, 2)), np.cumsum(stable, axis=0)])
    turns, shifts = similarity((sums[starts + window - wide.start] - sums[starts - wide.start]) / window)
    mouth = mouth[piece.start - wide.start :][: piece.stop - piece.start]
    centre = np.einsum("fij,fj->fi", turns, mouth.mean(1)) + shifts  # (n, 2) px of the mean face
    corner = np.round(centre) - CROP_SIZE // 2 + (CROP_SIZE - size) // 2
    back = np.linalg.inv(turns)
    return np.concatenate([back, np.einsum("fij,fj->fi", back, corner - shifts)[..., None]], -1)  # (n, 2, 3)
