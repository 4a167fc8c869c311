"""Fill a model and make inputs from integer hashes alone, so that it can be compared with code that is not here.

An implementation of the recipe in reference/FILL_SPEC.md: every value is a function of the entry's index in the
published state manifest, its name and the element's index.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch

_CODEBOOK_INDEX = 999_983


def hash_uniform(index: int, n: int) -> np.ndarray:
    """n float64 numbers in [-1, 1) from a 32-bit integer hash of (index, 0..n-1)."""
    mask = np.uint64(0xFFFFFFFF)
    h = np.arange(n, dtype=np.uint64) * np.uint64(0x85EBCA77)
    h = (h + np.uint64(index * 0x9E3779B1 % 2**32) + np.uint64(0x165667B1)) & mask
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        h = ((h ^ (h >> np.uint64(shift))) * np.uint64(factor)) & mask
    return (h ^ (h >> np.uint64(15))) / 2.0**31 - 1.0


def fill_entry(index: int, name: str, shape: list[int], dtype: str) -> torch.Tensor:
    """The value of one entry of a state manifest."""
    if dtype == "bool":
        return torch.ones(shape, dtype=torch.bool)
    if dtype.startswith("int"):
        return torch.zeros(shape, dtype=torch.int64)
    n, last = math.prod(shape), name.rsplit(".", 1)[-1]
    u = hash_uniform(_CODEBOOK_INDEX if last in ("embed", "embed_avg") else index, n)
    offset, spread = _offset_and_spread(name, last, shape, n)
    return torch.from_numpy((offset + spread * u).astype(np.float32).reshape(shape))


def _offset_and_spread(name: str, last: str, shape: list[int], n: int) -> tuple[float, float]:
    by_last = {
        "running_mean": (0.0, 0.1),
        "running_var": (1.0, 0.5),
        "cluster_size": (1.0, 0.0),
        "embed": (0.0, 1.0),
        "embed_avg": (0.0, 1.0),
        "layer_scale": (0.5, 0.4),
        "k": (1.0, 0.9),
        "mem_kv": (0.0, 1.0),
        "audio_token": (0.0, 1.0),
        "video_token": (0.0, 1.0),
        "gamma": (1.0, 0.2),
        "beta": (0.0, 0.2),
        "bias": (0.0, 0.1),
    }
    if last in by_last:
        return by_last[last]
    if name.endswith("pe_k.weight"):
        return 0.0, 0.5
    if last == "weight" and n == 1:
        return 0.25, 0.1
    if last == "weight" and len(shape) == 1:
        return 1.0, 0.2
    fan_in = 1024 if name.endswith("audio_decoder.weight") else math.prod(shape[1:])
    return 0.0, math.sqrt(3.0 / fan_in)


def fill_manifest(path: Path) -> dict[str, torch.Tensor]:
    """The filled state dict of a manifest file, under its published names."""
    entries = json.loads(path.read_text())["entries"]
    return {e["name"]: fill_entry(i, e["name"], e["shape"], e["dtype"]) for i, e in enumerate(entries)}


def golden_audio(batch: int, n_samples: int) -> torch.Tensor:
    """(batch, n_samples) float32 mixture."""
    t = np.arange(n_samples) / 16000.0
    rows = []
    for b in range(batch):
        tones = 0.30 * np.sin(2 * np.pi * (220.0 + 37.0 * b) * t + 0.3 * b)
        tones = tones + 0.20 * np.sin(2 * np.pi * (1310.0 - 90.0 * b) * t + 1.0) + 0.10 * np.sin(2 * np.pi * 3701.0 * t)
        envelope = 0.6 + 0.4 * np.sin(2 * np.pi * (2.0 + b) * t)
        rows.append(envelope * tones + 0.05 * hash_uniform(7000 + b, n_samples))
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def golden_video(batch: int, n_frames: int, size: int = 88) -> torch.Tensor:
    """(batch, n_frames, size, size) float32 pictures, already normalised."""
    t = np.arange(n_frames, dtype=np.float64)[:, None, None]
    y, x = np.arange(size)[None, :, None], np.arange(size)[None, None, :]
    clips = []
    for b in range(batch):
        clip = 1.2 * np.sin(0.11 * x + 0.9 * t + 0.7 * b) * np.cos(0.07 * y - 0.53 * t)
        clip = clip + 0.8 * np.sin(0.031 * (x - 44.0) * (y - 44.0) / (4.0 + np.mod(t * (3 + b), 7.0)))
        noise = hash_uniform(8000 + b, n_frames * size * size).reshape(n_frames, size, size)
        clips.append(clip + 0.3 * noise)
    return torch.from_numpy(np.stack(clips).astype(np.float32))


def snr_db(reference: torch.Tensor, found: torch.Tensor) -> float:
    """Signal-to-noise ratio of `found` against `reference` in dB."""
    reference, error = reference.double(), (found.double() - reference.double())
    return float(10 * torch.log10(reference.square().sum() / error.square().sum().clamp(min=1e-300)))
