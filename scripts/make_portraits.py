"""Make the bundled portraits: two public-domain photographs, and a third face blended from them that is nobody's.

    pip install scikit-image      # its wheel ships the first photograph, matplotlib's the second
    python scripts/make_portraits.py

Writes scripts/portraits/portrait_*.jpg and portraits.json (source, licence, 68 landmarks each).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from puppets import PORTRAITS, Portrait, carry, surround
from scipy.spatial import Delaunay

from lipsep.constants import FPS
from lipsep.errors import LipsepError
from lipsep.faces.tracks import find_faces

LICENCE = "public domain (work of the United States government)"
BLEND_SHARE = 0.45  # of the second face in the third


@dataclass(frozen=True)
class Source:
    """A photograph inside an installed package; `box` is what is kept: left, top, right, bottom in px."""

    name: str
    package: str
    file: str
    box: tuple[int, int, int, int]
    quality: int  # of the JPEG
    credit: str


SOURCES = (
    Source(
        "collins",
        "skimage",
        "data/astronaut.png",
        (95, 0, 351, 288),
        90,
        "NASA, portrait of the astronaut Eileen Collins (NASA Great Images; shipped with scikit-image)",
    ),
    Source(
        "hopper",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        (20, 0, 500, 540),
        60,
        "US Navy, portrait of Commodore Grace Hopper, 20 January 1984 (shipped with matplotlib)",
    ),
)


def main() -> None:
    photographs = {source.name: _original(source) for source in SOURCES}
    entries = {}
    for source in SOURCES:
        left, top, right, bottom = source.box
        picture = _read(photographs[source.name])[top:bottom, left:right]
        entries[source.name] = _save(source.name, picture, source.quality, source.credit)
        entries[source.name]["original_sha256"] = hashlib.sha256(photographs[source.name].read_bytes()).hexdigest()
    first, second = (_portrait(source.name, entries) for source in SOURCES)
    entries["blend"] = _save("blend", _blend(first, second), 88, "a face blended from the other two; nobody's")
    text = json.dumps(entries, indent=1)
    pair = re.compile(r"\[\s+(-?[\d.]+),\s+(-?[\d.]+)\s+\]")  # one landmark, one line
    (PORTRAITS / "portraits.json").write_text(pair.sub(r"[\1, \2]", text) + "\n", "utf-8")
    for name, entry in entries.items():
        print(f"{name:10s} {(PORTRAITS / entry['file']).stat().st_size / 1000:6.1f} kB  {entry['credit']}")


def _original(source: Source) -> Path:
    spec = importlib.util.find_spec(source.package)
    if spec is None or spec.origin is None:
        raise LipsepError(f"the portrait {source.name} ships with {source.package}, which is not installed")
    return Path(spec.origin).parent / source.file


def _read(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def _portrait(name: str, entries: dict) -> Portrait:
    return Portrait(name, _read(PORTRAITS / entries[name]["file"]), np.array(entries[name]["landmarks"], np.float32))


def _save(name: str, picture: np.ndarray, quality: int, credit: str) -> dict:
    """Write the JPEG, find the face in it, and describe both."""
    file = f"portrait_{name}.jpg"
    cv2.imwrite(str(PORTRAITS / file), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    large = cv2.resize(_read(PORTRAITS / file), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    tracks = find_faces(SimpleNamespace(index=index, time_s=index / FPS, image=large) for index in range(FPS))
    if len(tracks) != 1:
        raise LipsepError(f"{len(tracks)} faces found in the portrait {name}; it must show one")
    landmarks = np.round(np.nanmedian(tracks[0].landmarks, axis=0).astype(float) / 2, 1)
    return {"file": file, "credit": credit, "licence": LICENCE, "landmarks": landmarks.tolist()}


def _blend(first: Portrait, second: Portrait) -> np.ndarray:
    """The first portrait, mirrored and dressed in another colour, with a face half way between the two."""
    height, width = first.image.shape[:2]
    to_first, _ = cv2.estimateAffinePartial2D(second.landmarks, first.landmarks)
    to_second = cv2.invertAffineTransform(to_first)
    shape = (first.landmarks + second.landmarks @ to_first[:, :2].T + to_first[:, 2]) / 2  # (68, 2)
    beyond = np.concatenate(surround(first.landmarks, width, height))
    placed = np.concatenate([shape, beyond])
    triangles = Delaunay(placed).simplices
    mesh_of_first = np.concatenate([first.landmarks, beyond])
    mesh_of_second = np.concatenate([second.landmarks, beyond @ to_second[:, :2].T + to_second[:, 2]])
    ones, turns = np.array([[1, 0], [0, 1], [0, 0]], np.float64), to_second.T
    base = carry(first.image, mesh_of_first, placed, triangles, (width, height), ones).astype(np.float32)
    other = carry(second.image, mesh_of_second, placed, triangles, (width, height), turns).astype(np.float32)

    hull = cv2.convexHull(np.round(shape[[*range(2, 15), *range(17, 27)]]).astype(np.int32))
    face = cv2.GaussianBlur(cv2.fillConvexPoly(np.zeros((height, width), np.float32), hull, 1.0), (0, 0), 6)
    skin = face > 0.9
    contrast = base[skin].std(axis=0) / other[skin].std(axis=0)
    other = (other - other[skin].mean(axis=0)) * contrast + base[skin].mean(axis=0)
    share = BLEND_SHARE * face[:, :, None]
    blended = np.clip(base * (1 - share) + other * share, 0, 255).astype(np.uint8)

    hue, saturation, value = cv2.split(cv2.cvtColor(blended, cv2.COLOR_RGB2HSV))
    turned = ((hue.astype(int) + 100) % 180).astype(np.uint8)
    dressed = cv2.cvtColor(cv2.merge([turned, saturation, value]), cv2.COLOR_HSV2RGB)
    below_chin = np.clip((np.arange(height) - shape[8, 1] - 5) / 10, 0, 1)[:, None, None]
    return (dressed * below_chin + blended * (1 - below_chin)).astype(np.uint8)[:, ::-1]


if __name__ == "__main__":
    main()
