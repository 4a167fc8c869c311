"""The synthetic corpus, one person at a time: a still portrait whose mouth moves.

Mouth curves (`data.synthetic.visemes`) move the 68 landmarks of a portrait; a triangle mesh over the landmarks carries
the pixels along; the gap between the lips is painted. The result is no likeness of anybody's speech, but face detectors
and landmark networks take it for a talking face.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import Delaunay

from lipsep.constants import FPS
from lipsep.errors import MediaError

# Landmarks, iBUG-68 order.
_JAW_DROP = np.sin(np.linspace(0.0, np.pi, 17)).astype(np.float32) ** 2  # of jaw points 0..16; the ears stay
_UPPER = np.array([49, 50, 51, 52, 53, 61, 62, 63])
_LOWER = np.array([55, 56, 57, 58, 59, 65, 66, 67])
_INNER_PAIRS = ((61, 67), (62, 66), (63, 65))  # upper and lower point of the inner lip line that meet when closed
_INNER_TOP, _INNER_BOTTOM = [60, 61, 62, 63, 64], [60, 67, 66, 65, 64]

# Displacements at full opening and so on, in mouth widths of the portrait.
_LOWER_LIP_DROP, _CHIN_DROP, _UPPER_LIP_RISE, _TEETH = 0.40, 0.33, 0.05, 0.12
_RELAXED_WIDTH = 0.62  # widest mouth at rest, as a share of the distance between the outer corners of the eyes

PORTRAITS = Path(__file__).parent / "portraits"


@dataclass(frozen=True, eq=False)
class Portrait:
    """A face looking at the camera.

    Attributes:
        name: how `load_portrait` finds it.
        image: (H, W, 3) uint8 RGB.
        landmarks: (68, 2) float32 px, iBUG-68 order.
    """

    name: str
    image: np.ndarray
    landmarks: np.ndarray


def portraits() -> list[str]:
    """Names of the bundled portraits."""
    return sorted(json.loads((PORTRAITS / "portraits.json").read_text("utf-8")))


@lru_cache(maxsize=8)
def load_portrait(name: str) -> Portrait:
    """A bundled portrait; docs/demo_clip.md names its source and licence.

    Raises:
        MediaError: no such portrait.
    """
    entries = json.loads((PORTRAITS / "portraits.json").read_text("utf-8"))
    if name not in entries:
        raise MediaError(f"no bundled portrait {name!r}; there are {', '.join(sorted(entries))}")
    encoded = np.frombuffer((PORTRAITS / entries[name]["file"]).read_bytes(), np.uint8)
    image = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return Portrait(name, image, np.array(entries[name]["landmarks"], np.float32))


def head_motion(n_frames: int, seed: int) -> np.ndarray:
    """Slow idle movement of a head.

    Returns:
        (n_frames, 4) float32: shift right and down in face widths (within 0.06), turn in the picture plane in degrees
        (within 3), relative growth (within 0.03).
    """
    rng = np.random.default_rng(seed)
    time_s = np.arange(n_frames)[:, None, None] / FPS
    frequency_hz = rng.uniform(0.08, 0.45, (1, 4, 3))
    phase = rng.uniform(0.0, 2 * np.pi, (1, 4, 3))
    waves = np.sin(2 * np.pi * frequency_hz * time_s + phase).mean(axis=2)  # (F, 4)
    return (waves * np.array([0.06, 0.04, 3.0, 0.03])).astype(np.float32)


class Puppet:
    """A portrait on a panel of the video, ready to move.

    Args:
        portrait: whose face.
        width, height: of the panel in px; the portrait fills it, the face in its middle.
    """

    def __init__(self, portrait: Portrait, width: int, height: int):
        self.portrait, self.width, self.height = portrait, width, height
        source_height, source_width = portrait.image.shape[:2]
        face = portrait.landmarks
        self.face_width = float(np.ptp(face[:17, 0]))
        scale = max(width / source_width, height / source_height)
        centre = np.clip(
            np.array([face[:, 0].mean(), face[:, 1].mean()]),
            [width / scale / 2, height / scale / 2],
            [source_width - width / scale / 2, source_height - height / scale / 2],
        )
        self.scale = scale
        self._offset = np.array([width / 2, height / 2]) - scale * centre  # portrait px -> panel px
        self._to_portrait = np.array([[1, 0], [0, 1], -self._offset]) / scale
        self._rest = _at_rest(face)
        self.mouth_width = float(np.linalg.norm(self._rest[54] - self._rest[48]))
        self._ring, self._rim = surround(face, source_width, source_height)
        self._source = np.concatenate([face, self._ring, self._rim])  # (P, 2) portrait px
        slightly_open = self._place(np.array([0.3, 0.0, 0.0], np.float32), np.zeros(4, np.float32))
        triangles = Delaunay(slightly_open).simplices
        inside = np.isin(triangles, np.arange(60, 68)).all(axis=1)
        self._triangles = triangles[~inside]

    def landmarks(self, mouth: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Where the 68 landmarks are, (68, 2) float32 panel px, for one row of `mouth_curves` and of `head_motion`."""
        return (self._place(mouth, pose)[:68] * self.scale + self._offset).astype(np.float32)

    def still_landmarks(self) -> np.ndarray:
        """Where the 68 landmarks are in `still`, (68, 2) float32 panel px."""
        return (self.portrait.landmarks * self.scale + self._offset).astype(np.float32)

    def still(self) -> np.ndarray:
        """The portrait as it was taken: (height, width, 3) uint8 RGB; what hangs on a wall."""
        matrix = np.array([[self.scale, 0, self._offset[0]], [0, self.scale, self._offset[1]]], np.float32)
        size = (self.width, self.height)
        return cv2.warpAffine(self.portrait.image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def render(self, mouth: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """One frame.

        Args:
            mouth: (3,) one row of `mouth_curves`.
            pose: (4,) one row of `head_motion`.

        Returns:
            (height, width, 3) uint8 RGB.
        """
        placed = self._place(mouth, pose) * self.scale + self._offset  # (P, 2) panel px
        size = (self.width, self.height)
        picture = carry(self.portrait.image, self._source, placed, self._triangles, size, self._to_portrait)
        self._paint_gap(picture, placed)
        return picture

    def _place(self, mouth: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """All mesh points for this mouth and pose, (P, 2) in portrait px."""
        opening, width, tuck = (float(value) for value in mouth)
        points = self._rest.copy()
        across = points[54] - points[48]
        across /= np.linalg.norm(across)
        down = np.array([-across[1], across[0]])
        middle = (points[48] + points[54]) / 2
        mouth_points = points[48:68] - middle
        x, y = mouth_points @ across, mouth_points @ down  # (20,) each
        profile = np.clip(1.0 - (x / (0.5 * self.mouth_width)) ** 2, 0.0, 1.0)  # the corners hardly open
        lower, upper = _LOWER - 48, _UPPER - 48
        y[lower] += opening * _LOWER_LIP_DROP * self.mouth_width * (0.12 + 0.88 * profile[lower])
        y[upper] -= opening * _UPPER_LIP_RISE * self.mouth_width * profile[upper]
        y[[0, 6, 12, 16]] += 0.08 * opening * self.mouth_width
        y[lower] -= tuck * 0.07 * self.mouth_width * profile[lower]
        y[upper] -= tuck * 0.03 * self.mouth_width * profile[upper]
        x *= 1.0 + (0.10 if width > 0 else 0.26) * width
        points[48:68] = middle + x[:, None] * across + y[:, None] * down
        points[:17] += (opening * _CHIN_DROP * self.mouth_width * _JAW_DROP)[:, None] * down
        head = np.concatenate([points, self._ring])
        return np.concatenate([self._pose(head, pose), self._rim])

    def _pose(self, head: np.ndarray, pose: np.ndarray) -> np.ndarray:
        right, lower, turn_deg, growth = (float(value) for value in pose)
        neck = self._rest[8]
        angle = np.deg2rad(turn_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift = self.face_width * np.array([right, lower])
        return (1.0 + growth) * (head - neck) @ turn.T + neck + shift

    def _paint_gap(self, picture: np.ndarray, placed: np.ndarray) -> None:
        """Paint the inside of the mouth, or the line where the lips meet, into `picture`."""
        low = np.maximum(np.floor(placed[48:68].min(axis=0)).astype(int) - 4, 0)
        high = np.ceil(placed[48:68].max(axis=0)).astype(int) + 4
        patch = picture[low[1] : high[1], low[0] : high[0]]
        top, bottom = _smooth_line(placed[_INNER_TOP] - low), _smooth_line(placed[_INNER_BOTTOM] - low)
        mouth_px = self.scale * self.mouth_width
        down = np.array([[0.0, 1.0]])
        depth = np.maximum(bottom - top, 0.0)[:, 1:]
        teeth = np.concatenate([top, (top + np.minimum(_TEETH * mouth_px, 0.5 * depth) * down)[::-1]])
        tongue = np.concatenate([bottom - 0.35 * depth * down, bottom[::-1]])
        soft = mouth_px / 100
        inside = _polygon(patch, np.concatenate([top, bottom[::-1]]), 1.0 * soft)
        _blend(patch, (70, 35, 32), 0.5 * _line(patch, top, 2.0 * soft))
        _blend(patch, (52, 20, 20), inside)
        _blend(patch, (140, 72, 68), 0.7 * inside * _polygon(patch, tongue, 3.0 * soft))
        _blend(patch, (228, 218, 206), 0.85 * inside * _polygon(patch, teeth, 1.2 * soft))


def carry(
    image: np.ndarray,
    source: np.ndarray,
    placed: np.ndarray,
    triangles: np.ndarray,
    size: tuple[int, int],
    elsewhere: np.ndarray,
) -> np.ndarray:
    """Warp a picture piecewise affinely: each triangle of `source` points lands on the same one of `placed` points.

    Args:
        image: (H, W, 3) uint8.
        source, placed: (P, 2) px in `image` and in the result.
        triangles: (N, 3) int, of points.
        size: width and height of the result.
        elsewhere: (3, 2) affine map from (x, y, 1) of the result to `image`, for pixels in no triangle.

    Returns:
        (height, width, 3) uint8.
    """
    corners = np.concatenate([placed[triangles], np.ones((len(triangles), 3, 1))], axis=2)
    usable = np.abs(np.linalg.det(corners)) > 1e-3
    corners, triangles = corners[usable], triangles[usable]
    back = np.linalg.solve(corners, source[triangles])  # (N, 3, 2)
    width, height = size
    labels = np.full((height, width), len(back), np.int32)
    for label, triangle in enumerate(placed[triangles]):
        cv2.fillConvexPoly(labels, np.round(triangle * 16).astype(np.int32), label, shift=4)
    back = np.concatenate([back, elsewhere[None]]).astype(np.float32)[labels]  # (height, width, 3, 2)
    x = np.arange(width, dtype=np.float32)[None, :, None]
    y = np.arange(height, dtype=np.float32)[:, None, None]
    where = x * back[:, :, 0] + y * back[:, :, 1] + back[:, :, 2]
    return cv2.remap(image, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def surround(landmarks: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Mesh points beyond the landmarks: (16, 2) around the head, which move with it so that hair and ears do too, and
    (16, 2) on the border of a picture of that size, which stay."""
    centre = (landmarks[:17].mean(axis=0) + landmarks[17:27].mean(axis=0)) / 2
    angle = np.linspace(0.0, 2 * np.pi, 16, endpoint=False)
    radii = np.array([0.72, 1.0]) * np.ptp(landmarks[:17, 0])
    ring = centre + radii * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along_x, along_y = np.linspace(0, width - 1, 5), np.linspace(0, height - 1, 5)[1:-1]
    rows = [(x, y) for y in (0, height - 1) for x in along_x] + [(x, y) for x in (0, width - 1) for y in along_y]
    return ring, np.array(rows, np.float64)


def _at_rest(landmarks: np.ndarray) -> np.ndarray:
    """The landmarks, (68, 2) float64, with the lips together, each as thick as it was, and a broad smile relaxed."""
    rest = landmarks.astype(np.float64)
    for upper, lower in _INNER_PAIRS:
        meet = (rest[upper] + rest[lower]) / 2
        rest[[upper, upper - 11]] += meet - rest[upper]  # inner 61, 62, 63 lie under outer 50, 51, 52
        rest[[lower, lower - 9]] += meet - rest[lower]  # inner 65, 66, 67 lie over outer 56, 57, 58
    for side, neighbour in ((49, 50), (53, 52), (59, 58), (55, 56)):
        rest[side] += 0.6 * (rest[neighbour] - landmarks[neighbour])
    mouth = rest[48:68]
    corner = (rest[48] + rest[54]) / 2
    along = rest[54] - rest[48]
    half = np.linalg.norm(along) / 2
    along = along / (2 * half)
    down = np.array([-along[1], along[0]])
    x, y = (mouth - corner) @ along, (mouth - corner) @ down
    smile = y[[13, 14, 15]].mean()  # how far the middle of the lips hangs below the corners
    y = y + 0.5 * smile * np.clip(x / half, -1, 1) ** 2
    x = x * min(1.0, _RELAXED_WIDTH * np.linalg.norm(landmarks[45] - landmarks[36]) / (2 * half))
    rest[48:68] = corner + x[:, None] * along + y[:, None] * down
    return rest


def _smooth_line(points: np.ndarray) -> np.ndarray:
    """A curve through five points, (33, 2)."""
    from_start = np.linspace(0, len(points) - 1, 33)
    rounded = np.stack([np.interp(from_start, np.arange(len(points)), column) for column in points.T], axis=1)
    smooth = gaussian_filter1d(rounded, 3.0, axis=0, mode="nearest")
    smooth[[0, -1]] = points[[0, -1]]
    return smooth


def _polygon(patch: np.ndarray, points: np.ndarray, blur_px: float) -> np.ndarray:
    """How much of each pixel of the patch a polygon covers, (H, W, 1) float32 in 0..1, with soft edges."""
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), max(0.5, blur_px)).astype(np.float32)[:, :, None] / 255


def _line(patch: np.ndarray, points: np.ndarray, width_px: float) -> np.ndarray:
    """The same for a line."""
    mask = np.zeros(patch.shape[:2], np.uint8)
    fixed = np.round(points * 16).astype(np.int32)
    cv2.polylines(mask, [fixed], False, 255, max(1, round(width_px)), cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), max(0.5, width_px / 2)).astype(np.float32)[:, :, None] / 255


def _blend(patch: np.ndarray, colour: tuple[int, int, int], weight: np.ndarray) -> None:
    patch[:] = np.round(patch * (1 - weight) + np.array(colour, np.float32) * weight).astype(np.uint8)
