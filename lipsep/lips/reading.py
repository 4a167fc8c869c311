"""Where the mouth is: from face tracks to the lip pictures that a model watches, by the recipe its checkpoint names.

Two kinds of recipe. From pixels, as the field does it (Ma, Petridis, Pantic: auto_avsr; Shi et al.: AV-HuBERT): the
grey frame is laid over a mean face by a similarity of five points that do not talk, and a square around the mouth is
cut out. From the face mesh: the mouth is drawn from its 20 landmarks alone, so that light, skin, beard and camera
cannot matter; what it shows of the mouth is its shape. Or, cheapest of all, each landmark's place is written down as
two grey values: a picture for networks, not for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d

from lipsep.constants import FPS
from lipsep.errors import FaceError, ModelError
from lipsep.faces.detection import warp
from lipsep.faces.tracks import PIECE, FaceTrack
from lipsep.system.spool import Spool

MOUTH = slice(48, 68)  # of the 68 landmarks: outer lips 0..11, inner lips 12..19
STABLE_POINTS = [33, 36, 39, 42, 45]  # below the nose, corners of the eyes: they do not move with speech
MEAN_FACE = np.array([(128.9, 137.3), (92.5, 94.4), (112.8, 94.9), (145.5, 94.5), (166.7, 93.6)])  # px, the same points
SMOOTHING_FRAMES = 12  # of the field's recipe: the current frame and the next eleven
CROP_SIZE = 96  # px of the mean face, of which models see the middle
MEAN_GREY, STD_GREY = 0.421, 0.165  # of mouth crops, in shares of full scale

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
SHORT_GAP_S = 0.2  # gaps up to this long are filled between their neighbours
JUMP = 0.5  # a face that moves by more of its width between the eyes, or grows by more, from one frame to the next is
# in a new shot

WRITTEN_RANGE = 0.1  # of the picture's side, in "points" recipes
SKIN, LIPS, OPENING = 160, 100, 16  # greys of drawn mouths
_OVERSAMPLING = 4  # mouths are drawn so much larger, then averaged: a gap of a tenth of a pixel shows as a shade
_SHIFT = 4  # binary digits below the pixel for OpenCV's polygons


@dataclass(frozen=True)
class LipRecipe:
    """How lip pictures are made.

    Attributes:
        name: as checkpoints write it.
        size: the pictures' side in px.
        source: "pixels" needs the video's frames; "mesh" (drawn mouths) and "points" (written ones) need the landmarks
            only.
    """

    name: str
    size: int
    source: Literal["pixels", "mesh", "points"]


LIP_RECIPES = {
    recipe.name: recipe
    for recipe in (
        LipRecipe("mouth_88", 88, "pixels"),
        LipRecipe("mouth_64", 64, "pixels"),
        LipRecipe("mouth_112", 112, "pixels"),
        LipRecipe("mesh_32", 32, "mesh"),
        LipRecipe("mesh_88", 88, "mesh"),
        LipRecipe("points_8", 8, "points"),
    )
}


def lip_recipe(name: str) -> LipRecipe:
    """The recipe of this name.

    Raises:
        ModelError: there is none; the message lists those there are.
    """
    if name not in LIP_RECIPES:
        raise ModelError(f"unknown lip recipe {name!r}: choose one of {', '.join(LIP_RECIPES)}")
    return LIP_RECIPES[name]


class GreyFrame(Protocol):
    """What is needed of a frame: grey uint8 (H, W)."""

    image: np.ndarray


class Lips:
    """One person's lip pictures, read piece by piece.

    Attributes:
        n_frames: F.
        valid: (F,) bool; False where there is no usable mouth and `read` gives zeros.
    """

    def __init__(self, valid: np.ndarray, size: int) -> None:
        self.valid = valid
        self.n_frames = len(valid)
        self._size = size

    def read(self, start: int, stop: int) -> np.ndarray:
        """Pictures of frames start..stop-1 as float32 (stop - start, S, S), normalised; zeros where not valid.

        Raises:
            ValueError: the range does not lie in 0..F.
        """
        if not 0 <= start <= stop <= self.n_frames:
            raise ValueError(f"frames {start}..{stop} do not lie in 0..{self.n_frames}")
        lips = normalise_picture(self._pictures(start, stop))
        lips[~self.valid[start:stop]] = 0
        return lips

    def _pictures(self, start: int, stop: int) -> np.ndarray:
        """uint8 (stop - start, S, S), anything where not valid."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what the pictures occupy; `read` must not be called any more."""

    def __enter__(self) -> Lips:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DrawnLips(Lips):
    """Mouths drawn from their points when they are read."""

    def __init__(self, points: np.ndarray, valid: np.ndarray, recipe: LipRecipe) -> None:
        """points: (F, 20, 2) as `normalise_mouth` gives them, from memory or mapped from a file."""
        super().__init__(valid, recipe.size)
        self._points, self._recipe = points, recipe

    def _pictures(self, start: int, stop: int) -> np.ndarray:
        return picture_mouth(self._points[start:stop], self._recipe)


class FilmedLips(Lips):
    """Mouths cut from a video, kept in a temporary file that vanishes when closed or forgotten."""

    def __init__(self, pictures: Spool, valid: np.ndarray, size: int) -> None:
        """pictures: F of them, uint8 (size, size)."""
        super().__init__(valid, size)
        self._kept = pictures

    def _pictures(self, start: int, stop: int) -> np.ndarray:
        return self._kept.read(start, stop)

    def close(self) -> None:
        self._kept.close()


def extract_lips(
    tracks: Sequence[FaceTrack], frames: Iterable[GreyFrame] | None, recipe: LipRecipe, folder: Path | None = None
) -> list[Lips]:
    """Lip pictures of every person.

    Frames without a usable mouth are not valid, except that gaps of up to 0.2 s inside one shot are filled: with
    landmarks between those around them, and the true pixels.

    Args:
        tracks: from `find_faces`, F frames each.
        frames: the same F frames again, grey; not touched (and may be None) unless the recipe's source is "pixels".
        recipe: see `LIP_RECIPES`.
        folder: where temporary files go; default: the system's. Per person and hour about 0.7 GB for "mouth_88", 15 MB
            for recipes that need the landmarks only.

    Raises:
        FaceError: frames are missing or fewer than the tracks have.
        OutputError: the temporary files cannot be written.
    """
    if recipe.source != "pixels":
        return [_draw(track, recipe, folder) for track in tracks]
    if frames is None:
        raise FaceError(f"the lip recipe {recipe.name} needs the video's frames")
    return _film(tracks, frames, recipe.size, folder)


def crop_mouth(track: FaceTrack, frames: Iterable[GreyFrame]) -> np.ndarray:
    """One person's mouth as training keeps it: the field's crop, larger than models see, uint8 (F, 96, 96).

    Frames without a usable mouth show the mean grey, which `normalise_picture` makes 0.

    Raises:
        FaceError, OutputError: as `extract_lips`.
    """
    with _film([track], frames, CROP_SIZE, None)[0] as lips:
        pictures = lips._pictures(0, lips.n_frames).copy()
    pictures[~lips.valid] = round(255 * MEAN_GREY)
    return pictures


def normalise_picture(pictures: np.ndarray) -> np.ndarray:
    """Grey pictures uint8 (any shape) -> float32 as models expect them: ``(x / 255 - 0.421) / 0.165``."""
    return (pictures.astype(np.float32) / 255 - MEAN_GREY) / STD_GREY


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
    mouths, _ = _mouths(landmarks, present, None)
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


def picture_mouth(points: np.ndarray, recipe: LipRecipe) -> np.ndarray:
    """Pictures of a mouth of which only the points are known, as `recipe` makes them: (F, 20, 2) -> uint8 (F, S, S).

    Recipes that cut mouths out of the video get drawn ones of the same size.
    """
    return write_mouth(points) if recipe.source == "points" else draw_mouth(points, recipe.size)


def write_mouth(points: np.ndarray) -> np.ndarray:
    """How far each of the 20 points is from where `RESTING_MOUTH` has it: 127 grey values for `WRITTEN_RANGE`.

    Shape: (F, 20, 2) -> uint8 (F, 8, 8): x and y of the points in the first 40 pixels, the others stay at 128.
    """
    pictures = np.full((len(points), 64), 128, np.uint8)
    motion = (points - RESTING_MOUTH).reshape(len(points), -1) / WRITTEN_RANGE  # (F, 40)
    pictures[:, :40] = np.round(128 + 127 * np.clip(motion, -1, 1))
    return pictures.reshape(-1, 8, 8)


def draw_mouth(points: np.ndarray, size: int) -> np.ndarray:
    """Draw mouths: light skin, grey lips, the opening dark.

    Args:
        points: (F, 20, 2) in shares of the picture's side, as `normalise_mouth` gives them.
        size: side of the pictures in px.

    Returns:
        uint8 (F, size, size).
    """
    large = size * _OVERSAMPLING
    points = points.copy()
    for above, below in INNER_PAIRS:  # lips do not pass through each other, whatever the landmarks' noise says
        points[:, below, 1] = np.maximum(points[:, below, 1], points[:, above, 1])
    corners = np.round((points * large - 0.5) * (1 << _SHIFT)).astype(np.int32)  # (F, 20, 2)
    canvas = np.empty((large, large), np.uint8)
    pictures = np.empty((len(points), size, size), np.uint8)
    for picture, mouth in zip(pictures, corners, strict=True):
        canvas[:] = SKIN
        cv2.fillPoly(canvas, [mouth[:12]], LIPS, shift=_SHIFT)
        cv2.fillPoly(canvas, [mouth[12:]], OPENING, shift=_SHIFT)
        cv2.resize(canvas, (size, size), dst=picture, interpolation=cv2.INTER_AREA)
    return pictures


def _shots(landmarks: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, list[slice]]:
    """Usable (F,) bool, which are the frames present and those in short gaps between them, and the shots: stretches of
    usable frames in which the face moves without a jump."""
    seen = np.flatnonzero(present)
    usable = present.copy()
    stable = np.concatenate([landmarks[piece][:, STABLE_POINTS] for piece in _pieces(slice(0, len(present)))])[seen]
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


def _pieces(stretch: slice) -> Iterator[slice]:
    """A long stretch of frames in pieces that fit into memory."""
    for start in range(stretch.start, stretch.stop, PIECE):
        yield slice(start, min(start + PIECE, stretch.stop))


def _filled(landmarks: np.ndarray, present: np.ndarray, piece: slice) -> tuple[np.ndarray, np.ndarray]:
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


def _mouths(landmarks: np.ndarray, present: np.ndarray, folder: Path | None) -> tuple[Spool, np.ndarray]:
    """What `normalise_mouth` returns, in a temporary file: rows of (20, 2); and which frames are usable, (F,) bool."""
    if not present.any():
        raise FaceError("no frame shows this face, so there is no mouth to normalise")
    usable, shots = _shots(landmarks, present)
    mouths = Spool((20, 2), folder=folder)
    with closing(Spool((20, 2), folder=folder)) as uprights:
        for shot in shots:
            for piece in _pieces(shot):
                uprights.append(_upright(landmarks, present, shot, piece))
        upright = uprights.mapped()  # (usable frames, 20, 2)
        resting, gain = _manner(upright)
        for piece in _pieces(slice(0, len(present))):
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
    stable, mouth = _filled(landmarks, present, wide)
    turns, _ = similarity(uniform_filter1d(stable, POSE_FRAMES, axis=0, mode="nearest"))
    upright = (mouth - stable.mean(1, keepdims=True)) @ turns.transpose(0, 2, 1)  # (n, 20, 2)
    centre = median_filter(upright.mean(1), (centre_frames, 1), mode="nearest")  # (n, 2)
    return ((upright - centre[:, None]) / MESH_WIDTH + 0.5)[piece.start - wide.start :][: piece.stop - piece.start]


def _manner(points: np.ndarray) -> tuple[np.ndarray, float]:
    """How a mouth is when closed, float32 (20, 2), and the gain that brings its motion to the common strength.

    points: (F, 20, 2), of which one piece after the other is in memory.
    """
    pieces = list(_pieces(slice(0, len(points))))
    above, below = INNER_PAIRS[1]
    gap = np.concatenate([points[piece, below, 1] - points[piece, above, 1] for piece in pieces])  # (F,)
    closed = gap <= np.quantile(gap, CLOSED)
    resting = sum(points[piece][closed[piece]].sum(0, np.float64) for piece in pieces)
    mean = sum(points[piece].sum(0, np.float64) for piece in pieces) / len(points)  # (20, 2)
    variance = sum(((points[piece] - mean) ** 2).sum(0) for piece in pieces) / len(points)
    gain = float(np.clip(MOTION / (np.sqrt(np.mean(variance)) + 1e-9), 1 / MOTION_GAIN, MOTION_GAIN))
    return (resting / np.count_nonzero(closed)).astype(np.float32), gain


def _draw(track: FaceTrack, recipe: LipRecipe, folder: Path | None) -> Lips:
    mouths, usable = _mouths(track.landmarks, track.present, folder)
    return DrawnLips(mouths.mapped(), usable, recipe)


def _film(tracks: Sequence[FaceTrack], frames: Iterable[GreyFrame], size: int, folder: Path | None) -> list[Lips]:
    """The field's recipe for all people in one pass over the frames."""
    n_frames, n_read = len(tracks[0].present) if tracks else 0, 0
    shots = [_shots(track.landmarks, track.present) for track in tracks]
    maps = [_crop_maps(track, *found, size) for track, found in zip(tracks, shots, strict=True)]
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


def _crop_maps(track: FaceTrack, usable: np.ndarray, shots: list[slice], size: int) -> Iterator[np.ndarray | None]:
    """Where each pixel of the crop lies in its frame: an affine map (2, 3) from crop to frame per frame, None where
    there is no usable mouth.

    As published: the similarity comes from the mean of this and the next eleven frames (at the end of a shot: of its
    last twelve), the crop's centre from this frame's mouth, rounded to whole pixels of the mean face.
    """
    frame = 0
    for shot in shots:
        yield from [None] * (shot.start - frame)
        for piece in _pieces(shot):
            yield from _crop_maps_of(track, shot, piece, size)
        frame = shot.stop
    yield from [None] * (len(usable) - frame)


def _crop_maps_of(track: FaceTrack, shot: slice, piece: slice, size: int) -> np.ndarray:
    """`_crop_maps` of a piece of a shot: (n, 2, 3)."""
    window = min(SMOOTHING_FRAMES, shot.stop - shot.start)
    starts = np.minimum(np.arange(piece.start, piece.stop), shot.stop - window)
    wide = slice(int(starts[0]), int(starts[-1]) + window)
    stable, mouth = _filled(track.landmarks, track.present, wide)
    sums = np.concatenate([np.zeros((1, 5, 2)), np.cumsum(stable, axis=0)])
    turns, shifts = similarity((sums[starts + window - wide.start] - sums[starts - wide.start]) / window)
    mouth = mouth[piece.start - wide.start :][: piece.stop - piece.start]
    centre = np.einsum("fij,fj->fi", turns, mouth.mean(1)) + shifts  # (n, 2) px of the mean face
    corner = np.round(centre) - CROP_SIZE // 2 + (CROP_SIZE - size) // 2
    back = np.linalg.inv(turns)
    return np.concatenate([back, np.einsum("fij,fj->fi", back, corner - shifts)[..., None]], -1)  # (n, 2, 3)
