"""Pseudo-talkers: play a clip faster or slower, voice and mouth together.

Resampling a voice by a factor scales its pitch and its formants alike, which is what makes a talker sound larger or
smaller, and the mouth stays in step because it is resampled by the same factor. One talker becomes many voices.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.data.clips.clips import TalkingClip


def change_pace(
    clip: TalkingClip, pace: float, n_frames: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random stretch of the clip, played `pace` times as fast.

    Args:
        clip: the original; where it is too short for the stretch, silence and a resting last mouth follow.
        pace: 1.2 is 20 % faster and 20 % higher. Rounded to twentieths, so that resampling stays cheap.
        n_frames: length of the result in video frames.

    Returns:
        voice (640 * n_frames,) float32 and mouth (n_frames, 20, 2) float32.
    """
    voice, position = draw_stretch(clip, pace, n_frames, rng)
    return voice, frames_at(clip.mouth, position)


def draw_stretch(
    clip: TalkingClip, pace: float, n_frames: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """As `change_pace`, but in place of the mouth the place of each frame in the clip, for `frames_at`: (n_frames,)."""
    ratio = Fraction(round(pace * 20), 20)
    needed = int(np.ceil(n_frames * ratio)) + 1  # frames of the original
    start = int(rng.integers(max(1, clip.n_frames - needed + 1)))
    stop = min(clip.n_frames, start + needed)
    voice = clip.voice[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
    if ratio != 1:
        voice = resample_poly(voice, ratio.denominator, ratio.numerator)
    stretched = np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32)
    voice = voice[: len(stretched)]
    stretched[: len(voice)] = voice
    return stretched, np.minimum(start + np.arange(n_frames) * float(ratio), stop - 1)


def frames_at(series: np.ndarray, position: np.ndarray) -> np.ndarray:
    """What a series of one value per frame, (F, ...) float32, has at (fractional) frames (n,): (n, ...)."""
    below = position.astype(np.int64)
    above = np.minimum(below + 1, len(series) - 1)
    weight = (position - below).astype(np.float32).reshape(-1, *[1] * (series.ndim - 1))
    return (1 - weight) * series[below] + weight * series[above]
