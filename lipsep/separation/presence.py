"""Who is out of sight is silent: gates that follow presence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lipsep.constants import FPS, SAMPLES_PER_FRAME

HOLD_FRAMES = FPS // 2  # who is out of sight for so short a time (a hand, a glance aside, the end) is heard on


def heard(present: np.ndarray, n_frames: int) -> np.ndarray:
    """When a person is let through: presence with gaps of up to HOLD_FRAMES bridged, and held so long beyond the last
    picture, because the sound often ends a little later. bool (F,) -> bool (n_frames,)
    """
    held = np.pad(present, (0, HOLD_FRAMES), mode="edge")[:n_frames]
    held = np.pad(held, (0, n_frames - len(held)))
    seen = np.flatnonzero(held)
    for before, after in pairwise(seen):
        if after - before <= HOLD_FRAMES + 1:
            held[before:after] = True
    return held


FADE_FRAMES = 2  # 80 ms: how fast a voice opens before, and closes after, its person is visible


def presence_gate(present: np.ndarray, n_frames: int) -> np.ndarray:
    """Loudness of a voice at the frame boundaries: 1 around visible frames, down to 0 over FADE_FRAMES outside them.

    Shape: bool (F,) -> float32 (n_frames + 1,); frames beyond F count as absent.
    """
    visible = np.zeros(n_frames, dtype=bool)
    visible[: len(present)] = np.asarray(present, dtype=bool)[:n_frames]
    on = np.append(visible, False) | np.insert(visible, 0, False)  # boundaries that touch a visible frame
    gate = on.astype(np.float32)
    for step in range(1, min(FADE_FRAMES, n_frames + 1)):
        level = np.float32(1 - step / FADE_FRAMES)
        gate[:-step] = np.maximum(gate[:-step], level * on[step:])
        gate[step:] = np.maximum(gate[step:], level * on[:-step])
    return gate


def gate_samples(gate: np.ndarray, start: int, n_frames: int) -> np.ndarray:
    """Gate at frame boundaries -> straight lines in between, float32 (n_frames * 640,)."""
    left, right = gate[start : start + n_frames, None], gate[start + 1 : start + n_frames + 1, None]
    position = (np.arange(SAMPLES_PER_FRAME, dtype=np.float32) + 0.5) / SAMPLES_PER_FRAME  # within a frame, (640,)
    return (left + (right - left) * position).ravel()
