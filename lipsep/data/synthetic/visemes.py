"""What a mouth does while it speaks: phones with their times become curves at 25 fps.

A speech synthesiser knows its phones and their times. Three curves follow from them: how far the jaw is open, how wide
the lips are drawn, how far the lower lip is tucked under the teeth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

from lipsep.constants import FPS
from lipsep.errors import MediaError

CURVE_RATE = 200  # Hz, on which mouth curves are drawn before they are sampled at the middle of each video frame
GLIDE_MS = 22.0  # standard deviation of the smoothing that lets neighbouring phones shape each other
EDGE_FRAMES = 4  # beyond either end, so that a clip that is cut out of a longer one moves alike
CLOSURE_MS = 45.0  # the lips need this long to open after, and to close before, p, b and m

# Mouth shape per phone (CMU set): opening 0..1, width -1 (rounded) .. 1 (spread), lower lip under the teeth 0..1.
# Diphthongs are two shapes.
_SHAPES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "pau": ((0.0, 0.0, 0.0),),
    **{phone: ((0.0, 0.0, 0.0),) for phone in ("p", "b", "m")},
    **{phone: ((0.10, 0.1, 1.0),) for phone in ("f", "v")},
    **{phone: ((0.18, 0.3, 0.0),) for phone in ("t", "d", "n", "s", "z")},
    **{phone: ((0.24, -0.6, 0.0),) for phone in ("sh", "ch", "jh", "zh")},
    **{phone: ((0.28, 0.0, 0.0),) for phone in ("k", "g", "ng")},
    **{phone: ((0.22, 0.1, 0.0),) for phone in ("th", "dh")},
    "hh": ((0.35, 0.0, 0.0),),
    "l": ((0.36, 0.1, 0.0),),
    "r": ((0.26, -0.6, 0.0),),
    "w": ((0.14, -1.0, 0.0),),
    "y": ((0.22, 0.6, 0.0),),
    "aa": ((1.0, 0.0, 0.0),),
    "ae": ((0.85, 0.5, 0.0),),
    "ah": ((0.62, 0.1, 0.0),),
    "ao": ((0.82, -0.6, 0.0),),
    "aw": ((0.95, 0.1, 0.0), (0.35, -0.8, 0.0)),
    "ax": ((0.42, 0.0, 0.0),),
    "axr": ((0.40, -0.4, 0.0),),
    "ay": ((1.0, 0.1, 0.0), (0.38, 0.7, 0.0)),
    "eh": ((0.62, 0.4, 0.0),),
    "er": ((0.40, -0.4, 0.0),),
    "ey": ((0.52, 0.5, 0.0), (0.30, 0.8, 0.0)),
    "ih": ((0.36, 0.4, 0.0),),
    "iy": ((0.26, 0.9, 0.0),),
    "ow": ((0.66, -0.7, 0.0), (0.28, -0.9, 0.0)),
    "oy": ((0.70, -0.8, 0.0), (0.30, 0.6, 0.0)),
    "uh": ((0.36, -0.6, 0.0),),
    "uw": ((0.22, -1.0, 0.0),),
}


class Phone(NamedTuple):
    """One phone of an utterance; `name` in the CMU set, ``pau`` for silence."""

    name: str
    start_s: float
    stop_s: float


def mouth_curves(phones: Sequence[Phone], n_frames: int) -> np.ndarray:
    """What the mouth does while it speaks.

    Args:
        phones: in order of time; may begin before 0 and go on after the end.
        n_frames: length of the result.

    Returns:
        (n_frames, 3) float32: opening 0..1, width -1..1, tuck 0..1 at the middle of each video frame. The lips are
        shut in silence, and for at least one instant of every p, b and m.

    Raises:
        MediaError: a phone that is not in the CMU set.
    """
    times, shapes = [phones[0].start_s if phones else 0.0], [_SHAPES["pau"][0]]
    for phone in phones:
        if phone.name not in _SHAPES:
            raise MediaError(f"unknown phone {phone.name!r}; known are {' '.join(sorted(_SHAPES))}")
        targets = _SHAPES[phone.name]
        if len(targets) == 1:
            targets = targets * 2
        length_s = phone.stop_s - phone.start_s
        margin = 0.1 if phone.name == "pau" else 0.35  # share of the phone that belongs to the glide on either side
        times += [phone.start_s + margin * length_s, phone.stop_s - margin * length_s]
        shapes += targets
    per_frame = CURVE_RATE // FPS
    grid_s = (np.arange(-EDGE_FRAMES * per_frame, (n_frames + EDGE_FRAMES) * per_frame) + 0.5) / CURVE_RATE
    curves = np.stack([np.interp(grid_s, times, column) for column in np.array(shapes).T], axis=1)
    after_speech = grid_s > (phones[-1].stop_s if phones else 0.0)
    curves[after_speech] = 0.0
    curves = gaussian_filter1d(curves, GLIDE_MS / 1000 * CURVE_RATE, axis=0, mode="nearest")
    for phone in phones:
        if phone.name in ("p", "b", "m"):
            middle_s, half_s = (phone.start_s + phone.stop_s) / 2, max(0.02, (phone.stop_s - phone.start_s) / 2)
            outside = np.clip((np.abs(grid_s - middle_s) - half_s) / (CLOSURE_MS / 1000), 0.0, 1.0)
            curves[:, 0] *= outside
    middle_of_first = EDGE_FRAMES * per_frame + per_frame // 2
    return curves[middle_of_first::per_frame][:n_frames].astype(np.float32)  # (F, 3)
