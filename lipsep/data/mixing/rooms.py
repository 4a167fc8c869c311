"""Small rooms for training: impulse responses by the image-source method (pyroomacoustics)."""

from __future__ import annotations

import numpy as np

from lipsep.constants import SAMPLE_RATE
from lipsep.errors import MediaError, install_line

SMALLEST_M, LARGEST_M = (3.0, 2.5, 2.3), (7.0, 5.0, 3.2)
T60_S = (0.12, 0.5)  # reverberation time
DISTANCE_M = (0.4, 2.5)  # from mouth to microphone
LENGTH = SAMPLE_RATE // 2  # samples that are kept of a response


def draw_rooms(n_rooms: int, n_places: int, seed: int) -> np.ndarray:
    """Responses of random rooms from `n_places` places each to one microphone; the direct sound arrives at once and
    with strength 1, so that it stays in step with the lips. float32 (n_rooms, n_places, 8000)

    Raises:
        MediaError: pyroomacoustics is not installed.
    """
    try:
        import pyroomacoustics as room_acoustics
    except ImportError:
        raise MediaError(f"rooms are simulated by pyroomacoustics: {install_line('train')}") from None
    rng = np.random.default_rng(seed)
    responses = np.zeros((n_rooms, n_places, LENGTH), np.float32)
    done = 0
    while done < n_rooms:
        size, t60_s = rng.uniform(SMALLEST_M, LARGEST_M), rng.uniform(*T60_S)
        try:
            absorption, order = room_acoustics.inverse_sabine(t60_s, size)
        except ValueError:  # no wall absorbs so much
            continue
        materials = room_acoustics.Material(absorption)
        room = room_acoustics.ShoeBox(size, fs=SAMPLE_RATE, materials=materials, max_order=min(order, 12))
        microphone = size * rng.uniform(0.3, 0.7, 3)
        room.add_microphone(microphone)
        for _ in range(n_places):
            room.add_source(_place(size, microphone, rng))
        room.compute_rir()
        for place, response in enumerate(room.rir[0]):
            direct = int(np.abs(response).argmax())
            heard = response[direct : direct + LENGTH]
            responses[done, place, : len(heard)] = heard / heard[0]
        done += 1
    return responses


def _place(size: np.ndarray, microphone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    while True:
        place = rng.uniform(0.4, size - 0.4)
        if DISTANCE_M[0] < np.linalg.norm(place - microphone) < DISTANCE_M[1]:
            return place
