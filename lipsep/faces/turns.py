"""Which way up a film is whose faces nobody finds: sideways and upside-down pictures without a word about it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lipsep.faces.detection import FACE_SCORE, FaceDetector

TURNS = (180, 90, 270)  # degrees, counter-clockwise
N_LOOKS = 12  # pictures that are turned, spread over the film
N_SURE = 2  # pictures that must show a face that way


def turn_that_shows_faces(images: Iterable[np.ndarray]) -> int:
    """The turn, degrees counter-clockwise, that most pictures, RGB uint8 (H, W, 3), need to show faces; 0: none."""
    detector, n_seen = FaceDetector(), dict.fromkeys(TURNS, 0)
    for image in images:
        for degrees in TURNS:
            picture = np.ascontiguousarray(np.rot90(image, degrees // 90))
            regions = [found.region for scale in (1.0, 2.0) for found in detector.detect(picture, scale)]
            meshes = detector.meshes(picture, regions)
            upright = [mesh for mesh in meshes if abs(mesh.region.angle) < np.pi / 4]  # the nets follow tilted heads
            n_seen[degrees] += any(mesh.score > FACE_SCORE for mesh in upright)
    most = max(TURNS, key=lambda degrees: n_seen[degrees])
    return most if n_seen[most] >= N_SURE else 0
