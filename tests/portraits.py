"""Scenes and films whose truth is known, made of the puppets' portraits over a plain background."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
from puppets import PORTRAITS

HEIGHT, WIDTH = 360, 640


@dataclass
class Picture:
    image: np.ndarray


@cache
def portrait(name: str) -> tuple[np.ndarray, np.ndarray]:
    """An RGB portrait 256 px wide and its 68 landmarks, as its author marked them."""
    entry = json.loads((PORTRAITS / "portraits.json").read_text("utf-8"))[name]
    image = cv2.imdecode(np.frombuffer((PORTRAITS / entry["file"]).read_bytes(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    scale = 256 / image.shape[1]
    small = cv2.resize(image, (256, round(image.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    return small, (np.array(entry["landmarks"], float) + 0.5) * scale - 0.5


def scene(*people: tuple[str, float, float], height: int = HEIGHT, width: int = WIDTH, size: int = 256) -> Picture:
    """A picture with portraits (name, x, y of the upper left corner), `size` px wide; later ones cover earlier ones."""
    image = np.full((height, width, 3), (70, 80, 95), np.uint8)
    for name, x, y in people:
        face, _ = portrait(name)
        scale = size / face.shape[1]
        affine = np.array([[scale, 0, x], [0, scale, y]], np.float64)
        cv2.warpAffine(face, affine, (width, height), dst=image, borderMode=cv2.BORDER_TRANSPARENT)
    return Picture(image)


def where(name: str, x: float, y: float, size: int = 256) -> np.ndarray:
    """The landmarks of a portrait in a `scene`."""
    return portrait(name)[1] * size / 256 + [x, y]


def film(path: Path, images: list[np.ndarray]) -> Path:
    """A film with these pictures at 25 fps and noise."""
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("libx264", rate=25), out.add_stream("aac", rate=16_000, layout="mono")
        video.height, video.width = images[0].shape[:2]
        noise = np.random.default_rng(0).normal(0, 0.1, (1, len(images) * 640)).astype(np.float32)
        for start in range(0, noise.shape[1], 1024):
            piece = np.ascontiguousarray(noise[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
        for k, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path
