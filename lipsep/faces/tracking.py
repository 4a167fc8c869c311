"""Following faces from frame to frame, and knowing people again.

Between detections every face is followed by its own mesh: the landmarks of one frame say where to look in the next.
A face is lost when the mesh no longer believes in it, when the picture in its place changes abruptly (a cut, or
someone walking in front), or when two tracks fall onto one face. A face that nobody follows is compared with the
people who were lost, by place and by looks, before it becomes somebody new.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from lipsep.constants import FPS
from lipsep.faces.detection import FACE_SCORE, MESH_TO_IBUG68, FaceDetector, Mesh, overlap, warp
from lipsep.system.spool import Spool

CUT = 0.08  # mean change between frames, as a share of full scale, that starts a new shot
SAME_LOOK = 0.35  # least similarity of one face in successive frames; below, the picture has changed
NEAR_LOOK = 0.4  # least similarity for a lost person who would be found again near where he was lost
FAR_LOOK = 0.78  # the same anywhere in the picture, and after a cut
NEAR_SIDES = 1.0  # how far, in face sizes, a lost person may have moved at first ...
NEAR_SIDES_PER_S = 1.0  # ... and further with every second
DUPLICATE_IOU = 0.5  # two tracks that overlap more are on one face
RETRY_S = 1.0  # so long a lost person is looked for where he was, in every frame
YOUNG_S = 2.0  # seen for less time, somebody new may still turn out to be a lost person
BRIEF_S, FORGET_S = 0.5, 10.0  # somebody seen for less in all (unless asked for), and not for so long, is forgotten
CLOSE_LOOK_S = 1.0  # so often, and after cuts, the detector looks twice as closely
MAX_FACES = 16  # in one frame, the largest; a crowd would take all day
LOOK_SIZE = 16  # pixels of the descriptor's picture
GALLERY = 6  # views kept per person
NEW_VIEW = 0.8  # a view is kept when no kept one is more similar
THUMBNAIL = 192  # px, as the face mesh sees it


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one frame, with its descriptor."""

    mesh: Mesh
    look: np.ndarray

    @property
    def size(self) -> float:
        """Larger side of the box in px."""
        box = self.mesh.box
        return float((box[2:] - box[:2]).max())


@dataclass(eq=False)
class Person:
    """What is known of one person so far."""

    last: Face
    last_frame: int
    shot: int  # in which the person was last seen
    sightings: Spool  # of everybody, in order of time: (70, 2) landmarks and the box's corners
    gallery: list[np.ndarray] = field(default_factory=list)
    frames: array = field(default_factory=lambda: array("l"))  # in which the person was seen ...
    rows: array = field(default_factory=lambda: array("l"))  # ... and the rows of `sightings` that tell where
    thumbnail: np.ndarray | None = None
    thumbnail_quality: float = 0.0

    def see(self, face: Face, frame: int, shot: int) -> None:
        """Record the face in this frame."""
        self.last, self.last_frame, self.shot = face, frame, shot
        self.frames.append(frame)
        self.rows.append(len(self.sightings))
        points = face.mesh.points[MESH_TO_IBUG68].astype(np.float32)  # (68, 2)
        self.sightings.append(np.concatenate([points, face.mesh.box.reshape(2, 2)])[None])  # (1, 70, 2)
        if self.likeness(face) < NEW_VIEW:
            self.gallery = [*self.gallery[-(GALLERY - 1) :], face.look]
        quality = face.size * _frontality(points)
        if quality > 1.1 * self.thumbnail_quality:
            self.thumbnail_quality = quality
            self.thumbnail = cv2.resize(face.mesh.crop, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)

    def absorb(self, later: Person) -> None:
        """Take over what was recorded of `later`, who turned out to be the same person."""
        self.last, self.last_frame, self.shot = later.last, later.last_frame, later.shot
        self.gallery = [*self.gallery, *later.gallery][-GALLERY:]
        self.frames += later.frames
        self.rows += later.rows
        if later.thumbnail_quality > self.thumbnail_quality:
            self.thumbnail, self.thumbnail_quality = later.thumbnail, later.thumbnail_quality

    def seen(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (K, 68, 2) and boxes (K, 4) x0, y0, x1, y1 px of the sightings first..last-1, float32."""
        places = self.sightings.mapped()[np.asarray(self.rows[first:last])]  # (K, 70, 2)
        return places[:, :68], places[:, 68:].reshape(-1, 4)

    def likeness(self, face: Face) -> float:
        """Greatest similarity, -1 to 1, of the face with the views kept."""
        return max((float(view @ face.look) for view in self.gallery), default=-1.0)


class Tracker:
    """Follows faces frame by frame; `people` holds everybody met so far.

    Memory: 16 bytes per person and frame in which the person is seen; no pictures but small views. Where everybody was
    lies in a temporary file in `folder`, 560 bytes per person and frame.
    """

    def __init__(
        self,
        detect_every_n: int = 5,
        face_scale: float = 1.0,
        folder: Path | None = None,
        brief_s: float = BRIEF_S,
    ) -> None:
        self._brief_frames = brief_s * FPS
        self.longest_frames = 0  # that anybody was seen in, also those who are forgotten
        self._sightings = Spool((70, 2), folder=folder)
        self.people: list[Person] = []
        self.n_frames = 0
        self._active: list[Person] = []
        self._detector = FaceDetector()
        self._every, self._face_scale = detect_every_n, face_scale
        self._shot = 0
        self._close_look = -FPS  # the frame of the last one
        self._glance: np.ndarray | None = None
        self._shown: Callable[[], np.ndarray | None] = lambda: None  # a weak reference to the last picture
        self._n_shown = 0  # how often it has come, one after another

    def step(self, picture: np.ndarray) -> None:
        """Take the next frame, RGB uint8 (H, W, 3)."""
        index = self.n_frames
        self.n_frames += 1
        if self._is_held(picture):
            for person in self._active:
                person.see(person.last, index, self._shot)
            self._forget(index)
            return
        cut = self._is_cut(picture)
        if cut:
            self._shot += 1
            self._active = []
        was_active = len(self._active)
        strangers = self._follow(picture, index)
        if cut or len(self._active) < was_active or index % self._every == 0:
            strangers += self._look_around(picture, index, cut, strangers)
        self._recognise(strangers, index)
        self._reunite()
        self._forget(index)

    def _is_held(self, picture: np.ndarray) -> bool:
        """Whether this very picture has come so often that everything in it is found: slow or damaged videos."""
        self._n_shown = self._n_shown + 1 if self._shown() is picture else 1
        self._shown = weakref.ref(picture)
        return self._n_shown > self._every

    def _is_cut(self, picture: np.ndarray) -> bool:
        """Whether the picture differs from the last one as a whole."""
        rows, columns = (max(1, side // 64) for side in picture.shape[:2])
        sample = np.ascontiguousarray(picture[::rows, ::columns])  # averaging all pixels takes 7 ms in full HD
        glance = cv2.resize(sample, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        previous, self._glance = self._glance, glance
        return previous is not None and float(np.abs(glance - previous).mean()) > CUT

    def _follow(self, picture: np.ndarray, index: int) -> list[Face]:
        """Update the people in view; the faces returned are in their places but do not look like them."""
        since = index - RETRY_S * FPS
        waiting = [person for person in self._lost() if person.shot == self._shot and person.last_frame >= since]
        sought = self._active + waiting
        meshes = self._detector.meshes(picture, [person.last.mesh.region for person in sought])
        still, strangers = [], []
        for person, mesh in zip(sought, meshes, strict=True):
            if not _is_face(mesh, picture):
                continue
            face = Face(mesh, _look(picture, mesh.points))
            if person in waiting:
                if person.likeness(face) > NEAR_LOOK:
                    still.append((person, face))
            elif float(face.look @ person.last.look) < SAME_LOOK:
                strangers.append(face)
            else:
                still.append((person, face))
        # of two on one face, the one in view keeps it, then the more alike
        still.sort(key=lambda pair: (pair[0] in waiting, -pair[0].likeness(pair[1])))
        self._active = []
        taken: list[np.ndarray] = []
        for person, face in still:
            if not taken or overlap(face.mesh.box, np.stack(taken)).max() < DUPLICATE_IOU:
                taken.append(face.mesh.box)
                person.see(face, index, self._shot)
                self._active.append(person)
        return [face for face in strangers if not _covered(face.mesh.box, taken)]

    def _look_around(self, picture: np.ndarray, index: int, cut: bool, strangers: list[Face]) -> list[Face]:
        """Faces that nobody follows."""
        scales = {self._face_scale}
        pause = self._every if cut else CLOSE_LOOK_S * FPS
        if index >= self._close_look + pause:
            self._close_look = index
            scales |= {2 * self._face_scale, min(1.0, self._face_scale)}
        detections = [found for scale in sorted(scales) for found in self._detector.detect(picture, scale)]
        known = [person.last.mesh.box for person in self._active] + [face.mesh.box for face in strangers]
        regions = [found.region for found in detections if not _covered(found.box, known)]
        regions = sorted(regions, key=lambda region: -region.side)[: max(0, MAX_FACES - len(known))]
        refined = [mesh.region for mesh in self._detector.meshes(picture, regions) if _is_face(mesh, picture)]
        faces = []
        for mesh in self._detector.meshes(picture, refined):
            if _is_face(mesh, picture) and not _covered(mesh.box, known):
                faces.append(Face(mesh, _look(picture, mesh.points)))
                known.append(mesh.box)
        return faces

    def _recognise(self, faces: list[Face], index: int) -> None:
        """Give each face to the lost person that fits best, or to somebody new."""
        lost = self._lost()
        fits = [(self._fit(person, face, index), p, f) for p, person in enumerate(lost) for f, face in enumerate(faces)]
        given: dict[int, int] = {}  # face -> lost person
        for fit, p, f in sorted(fits, reverse=True):
            if fit > 0 and f not in given and p not in given.values():
                given[f] = p
        for f, face in enumerate(faces):
            if f in given:
                person = lost[given[f]]
            else:
                person = Person(face, index, self._shot, self._sightings)
                self.people.append(person)
            person.see(face, index, self._shot)
            self._active.append(person)

    def _reunite(self) -> None:
        """Somebody new who comes to look like a lost person, having turned his face, is that person."""
        young = [person for person in self._active if len(person.frames) < YOUNG_S * FPS]
        for person in young:
            earlier = [other for other in self._lost() if other.last_frame < person.frames[0]]
            if not earlier:
                continue
            same = max(earlier, key=lambda other: other.likeness(person.last))
            if same.likeness(person.last) > FAR_LOOK:
                same.absorb(person)
                self.people = [other for other in self.people if other is not person]
                self._active = [same if other is person else other for other in self._active]

    def _forget(self, index: int) -> None:
        """Keep memory bounded where crowds pass by."""
        brief, since = self._brief_frames, index - FORGET_S * FPS
        self.longest_frames = max([self.longest_frames, *(len(person.frames) for person in self._active)])
        self.people = [person for person in self.people if len(person.frames) >= brief or person.last_frame >= since]

    def _lost(self) -> list[Person]:
        return [person for person in self.people if person not in self._active]

    def _fit(self, person: Person, face: Face, index: int) -> float:
        """How well the face fits a lost person; not above zero means it does not."""
        likeness = person.likeness(face)
        if person.shot == self._shot:
            sides = NEAR_SIDES + NEAR_SIDES_PER_S * (index - person.last_frame) / FPS
            box, last = face.mesh.box, person.last.mesh.box
            moved = float(np.linalg.norm((box[:2] + box[2:] - last[:2] - last[2:]) / 2))
            grown = face.size / max(person.last.size, 1e-6)
            if moved < sides * person.last.size and 0.5 < grown < 2 and likeness > NEAR_LOOK:
                return 1 + likeness
        return likeness if likeness > FAR_LOOK else 0.0


def _is_face(mesh: Mesh, picture: np.ndarray) -> bool:
    """Whether the mesh believes in its face and at least half of the face lies in the picture."""
    height, width = picture.shape[:2]
    box = mesh.box
    size = np.maximum(box[2:] - box[:2], 1e-9)
    inside = np.clip(np.minimum(box[2:], [width, height]) - np.maximum(box[:2], 0), 0, None)
    return mesh.score > FACE_SCORE and float(np.prod(inside / size)) > 0.5


def _covered(box: np.ndarray, others: list[np.ndarray]) -> bool:
    """Whether the middle of the box lies in one of the others, or the boxes overlap much."""
    if not others:
        return False
    boxes = np.stack(others)
    x, y = (box[:2] + box[2:]) / 2
    inside = (boxes[:, 0] < x) & (x < boxes[:, 2]) & (boxes[:, 1] < y) & (y < boxes[:, 3])
    return bool(inside.any() or overlap(box, boxes).max() > 0.3)


def _look(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Descriptor of a face: a small colour picture of it, its features in fixed places, of mean zero per colour and
    length one, so that the product of two is their correlation. Shape (468, 2) px -> (768,).

    Kind and threshold were chosen on five people (GRID s1 and two clips of two people): of 138 views from the second
    halves of the videos, all were most like a view of the same person in the first halves; 93.5 % lay above 0.78 for
    that person, 99.3 % below for everybody else. Few people, one light each: take it as a hint, not as recognition.
    """
    affine = points[_FEATURES].T @ _TO_FEATURES  # (2, 3) from the small picture to the large one
    small = warp(picture, affine, LOOK_SIZE).astype(np.float32)
    small = (small - (small * _LOOK_WEIGHT).sum((0, 1)) / _LOOK_WEIGHT.sum()) * np.sqrt(_LOOK_WEIGHT)
    return small.ravel() / max(float(np.linalg.norm(small)), 1e-6)


def _look_weight() -> np.ndarray:
    """Weight of each pixel of a look, towards the middle of the face: (16, 16, 1)."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, LOOK_SIZE)] * 2, indexing="ij")
    return np.exp(-(x**2 + y**2) / (2 * 0.7**2)).astype(np.float32)[..., None]


# Corners of the eyes and of the mouth, base of the nose and upper lip in the mesh, and where they go: in the mean of
# faces, half-widths from the middle of a picture 1.6 face widths wide.
_FEATURES = [33, 133, 362, 263, 61, 291, 2, 13]
_PLACES = [(-0.37, -0.3), (-0.16, -0.3), (0.16, -0.3), (0.37, -0.3), (-0.23, 0.33), (0.23, 0.33), (0, 0.12), (0, 0.33)]
_PIXELS = (np.array(_PLACES) / 1.6 + 0.5) * LOOK_SIZE - 0.5
_TO_FEATURES = np.linalg.pinv(np.column_stack([_PIXELS, np.ones(len(_PIXELS))])).T  # (8, 3): least squares
_LOOK_WEIGHT = _look_weight()


def _frontality(points: np.ndarray) -> float:
    """1 for a face seen from the front, towards 0 in profile: the nose tip's place between the outer eye corners."""
    left, right = (float(np.linalg.norm(points[30] - points[corner])) for corner in (36, 45))
    return min(left, right) / max(left, right, 1e-6)
