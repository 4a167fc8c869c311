"""Faces in one picture: boxes from BlazeFace, 468 points each from the face mesh.

The regions of interest follow MediaPipe: a square around the face, turned so that the eyes are level, with 25 % of
margin on every side. All coordinates are pixels of the picture, whole numbers at pixel centres.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from lipsep.faces.nets import NET_SIZE, load_face_nets

DETECTION_SCORE = 0.5  # least probability of a detection
FACE_SCORE = 0.5  # least probability, after the mesh's own judgement, that the region shows a face
ROI_MARGIN = 1.5  # side of the region of interest over the larger side of the face
ANCHOR_STRIDE = 4  # pixels of the detector's picture between anchors
SIZE_STEP = 32  # the detector halves its picture five times
SAME_FACE_IOU = 0.3  # detections that overlap more are one face

# 468 mesh points -> the 68 landmarks of the iBUG-300W scheme
# fmt: off
MESH_TO_IBUG68 = np.array([
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw 0..16
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows 17..26
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose 27..35
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes 36..47
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips 48..59
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips 60..67
])
# fmt: on
_EYE_CORNERS = [33, 263]  # outer corners in the mesh, left and right in the picture


@dataclass(frozen=True)
class Region:
    """A square region of interest: centre (x, y) px, side px, angle in radians (clockwise in the picture)."""

    x: float
    y: float
    side: float
    angle: float

    def to_picture(self, size: int = NET_SIZE) -> np.ndarray:
        """The affine map (2, 3) from pixels of the upright `size` x `size` crop to pixels of the picture."""
        scale = self.side / size
        cos, sin = scale * np.cos(self.angle), scale * np.sin(self.angle)
        middle = (size - 1) / 2
        return np.array(
            [[cos, -sin, self.x - middle * (cos - sin)], [sin, cos, self.y - middle * (sin + cos)]], np.float64
        )


@dataclass(frozen=True)
class Detection:
    """One face as the detector sees it: box x0, y0, x1, y1 px, and the region to search for landmarks."""

    box: np.ndarray
    region: Region


@dataclass(frozen=True)
class Mesh:
    """One face as the mesh sees it: points (468, 2) px, probability, and the upright crop (192, 192, 3)."""

    points: np.ndarray
    score: float
    crop: np.ndarray

    @property
    def box(self) -> np.ndarray:
        """Smallest box around the points: x0, y0, x1, y1 px."""
        return np.concatenate([self.points.min(0), self.points.max(0)])

    @property
    def region(self) -> Region:
        """Where to look for this face in the next frame."""
        left, right = self.points[_EYE_CORNERS]
        angle = float(np.arctan2(right[1] - left[1], right[0] - left[0]))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # upright -> picture
        upright = self.points @ turn
        low, high = upright.min(0), upright.max(0)
        x, y = turn @ ((low + high) / 2)
        return Region(float(x), float(y), float((high - low).max()) * ROI_MARGIN, angle)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The networks are too small to share: on a busy machine (load 9 on 2 cores) a second thread made them 14 to 19
    times slower, and the decoder has use for the second core."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


class FaceDetector:
    """Both networks, loaded once."""

    def __init__(self) -> None:
        self._blazeface, self._facemesh = load_face_nets()

    @_one_thread()
    @torch.inference_mode()
    def detect(self, picture: np.ndarray, face_scale: float = 1.0) -> list[Detection]:
        """All faces in an RGB picture, uint8 (H, W, 3), most probable first.

        Args:
            face_scale: the longer side of the picture becomes 192 * face_scale pixels for the network, at a cost that
                grows with its square. Three portraits in full HD were always found from 183, 44, 36 px of
                width upwards at scales 1, 2, 3, and mostly from 109, 37, 29 px.
        """
        height, width = picture.shape[:2]
        scale = NET_SIZE * face_scale / max(height, width)
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        view = np.zeros([-(-side // SIZE_STEP) * SIZE_STEP for side in (small[1], small[0])] + [3], np.uint8)
        view[: small[1], : small[0]] = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        scores, boxes = self._blazeface(_to_tensor([view]).mul_(2).sub_(1))
        likely = torch.nonzero(scores[0] > np.log(DETECTION_SCORE / (1 - DETECTION_SCORE)))[:, 0].numpy()
        columns = view.shape[1] // ANCHOR_STRIDE
        anchors = (np.stack([likely % columns, likely // columns], 1) + 0.5) * ANCHOR_STRIDE  # (K, 2)
        probability = scores[0].sigmoid().numpy()[likely]
        found = boxes[0].numpy()[likely].reshape(-1, 8, 2).astype(np.float64)  # (K, 8, 2)
        found[:, [0, *range(2, 8)]] += anchors[:, None]
        back = np.array([width / small[0], height / small[1]])
        found *= back
        found[:, [0, *range(2, 8)]] -= 0.5  # from pixel edges to pixel centres
        centres, sizes = found[:, 0], found[:, 1]
        corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)  # (K, 4)
        detections = []
        for k in _suppress(corners, probability):
            eyes = found[k, 3] - found[k, 2]
            angle = float(np.arctan2(eyes[1], eyes[0]))
            x, y = centres[k].tolist()
            region = Region(x, y, float(sizes[k].max()) * ROI_MARGIN, angle)
            detections.append(Detection(corners[k], region))
        return detections

    @_one_thread()
    @torch.inference_mode()
    def meshes(self, picture: np.ndarray, regions: list[Region]) -> list[Mesh]:
        """One mesh per region of an RGB picture, uint8 (H, W, 3); the caller judges the score."""
        if not regions:
            return []
        crops = [warp(picture, region.to_picture(), NET_SIZE) for region in regions]
        points, scores = self._facemesh(_to_tensor(crops))
        found = []
        for region, crop, p, score in zip(regions, crops, points.numpy(), scores.sigmoid().tolist(), strict=True):
            affine = region.to_picture()
            flat = p[:, :2].astype(np.float64) - 0.5  # (468, 2), pixel centres of the crop
            found.append(Mesh(flat @ affine[:, :2].T + affine[:, 2], score, crop))
        return found


def warp(picture: np.ndarray, affine: np.ndarray, size: int) -> np.ndarray:
    """Draw a crop (size, size[, 3]) of a picture (H, W[, 3]), black outside; bilinear.

    Args:
        affine: (2, 3), from pixels of the crop to pixels of the picture. Where it shrinks the picture twice or more,
            the picture is averaged over whole blocks first, so that nothing aliases.
    """
    shrink = int(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
    if shrink >= 2:
        height, width = picture.shape[:2]
        edge = size - 1
        corners = np.array([(0, 0), (edge, 0), (0, edge), (edge, edge)]) @ affine[:, :2].T + affine[:, 2]  # (4, 2)
        x0, y0 = np.clip(np.floor(corners.min(0)) - shrink, 0, [width, height]).astype(int)
        x1, y1 = np.clip(np.ceil(corners.max(0)) + shrink, 0, [width, height]).astype(int)
        columns, rows = (x1 - x0) // shrink, (y1 - y0) // shrink
        if columns > 0 and rows > 0:
            part = picture[y0 : y0 + rows * shrink, x0 : x0 + columns * shrink]
            picture = cv2.resize(part, (int(columns), int(rows)), interpolation=cv2.INTER_AREA)
            affine = affine / shrink
            affine[:, 2] -= (np.array([x0, y0]) + (shrink - 1) / 2) / shrink
    return cv2.warpAffine(picture, affine, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box (4,) with many (K, 4): (K,)."""
    size = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])  # (K, 2)
    common = np.prod(np.clip(size, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return common / np.maximum(np.prod(box[2:] - box[:2]) + areas - common, 1e-9)


def _suppress(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Greedy non-maximum suppression: indices of the boxes to keep, best first."""
    kept: list[int] = []
    for k in np.argsort(-scores, kind="stable").tolist():
        if not kept or overlap(boxes[k], boxes[kept]).max() < SAME_FACE_IOU:
            kept.append(k)
    return kept


def _to_tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    """RGB pictures uint8 (H, W, 3) -> one tensor (B, 3, H, W) in [0, 1], channels last in memory."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255)  # (B, 3, H, W)
