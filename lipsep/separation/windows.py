"""Separation of any length: overlapping windows on the video-frame grid, cross-faded, in constant memory.

Every window starts and ends on a video frame (640 samples), so that lips and sound never slip against each other.
Invariants, each held by a test:

- the cross-fade weights are positive everywhere, so their sum never reaches zero and nothing is divided by nothing;
- the output is exactly as long as the input and aligned with it, whatever the length;
- a file no longer than one window is run in one piece, without any cross-fade;
- the last window is moved back to end with the file instead of being filled up with silence;
- what is held in memory depends on the window, the batch and the number of people, never on the length.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from lipsep.constants import FPS, SAMPLES_PER_FRAME, Hook
from lipsep.errors import ModelError
from lipsep.models.base import face_groups
from lipsep.separation.batches import BatchedModel, side_by_side
from lipsep.separation.levels import Levels, within_mixture
from lipsep.separation.presence import gate_samples, presence_gate


class LipStream(Protocol):
    """One person's lip pictures, read piece by piece: `lipsep.lips.reading.Lips`, or anything with these two."""

    n_frames: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop) -> float32 (stop - start, H, W), normalised, zeros where no mouth is usable."""
        ...


def separate_windows(
    model: torch.nn.Module,
    mixture: np.ndarray | Callable[[int, int], np.ndarray],
    n_samples: int,
    lips: Sequence[LipStream],
    present: Sequence[np.ndarray] | None = None,
    faces: Sequence[np.ndarray] | None = None,
    *,
    window_s: float = 4.0,
    overlap_s: float = 1.0,
    batch: int = 4,
    workers: int = 1,
    conserve: bool = False,
    device: str | torch.device = "cpu",
    hook: Hook | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Iterator[tuple[int, np.ndarray]]:
    """Separate a mixture of any length into one voice per lip stream, block by block.

    Args:
        model: a `SeparationModel` (attributes `faces_at_once`, `n_faces`, `keeps_level`), already on `device`. More or
            fewer faces than it takes at once are grouped, see `lipsep.models.base.face_groups`.
        mixture: float32 (T,) at 16 kHz, or `read(start, stop)` that returns such a piece.
        n_samples: T.
        lips: one stream per person; frames beyond a stream's end are neutral (zeros).
        present: per person bool (F,), where the person is visible; frames beyond its end count as absent.
            Absent people are silent, and windows without them cost nothing. None: everyone is always heard.
        faces: per person float32 (3, P, P), a picture of their face (`faces.tracks.face_picture`), for models that need
            them (`needs_faces`).
        window_s, overlap_s: rounded to whole video frames (0.04 s); 0 <= overlap < window.
        batch: how many (window, person) pairs, or (window, group of `n_faces`) pairs, go through the model at once;
            halved when memory runs out.
        workers: threads among which a batch is divided, each with its share of PyTorch's threads: on a processor one
            pass after the other leaves threads waiting at every small operation, passes side by side do not.
        conserve: turn voices down where together they are louder than the mixture (`levels.within_mixture`): for more
            people than the model has learned to share a mixture among.
        hook: called as `hook("separate", windows_done, n_windows)`.
        warn: called with one line when something had to be changed.

    Yields:
        (start_sample, float32 (n_people, n)): consecutive blocks that cover [0, n_samples) without gap or overlap.

    Raises:
        ModelError: impossible window settings, a model that breaks its contract, or no memory even for batch 1.
    """
    window, overlap = round(window_s * FPS), round(overlap_s * FPS)  # frames
    if window < 1 or not 0 <= overlap < window:
        raise ModelError(f"window of {window_s} s with an overlap of {overlap_s} s: needs 0 <= overlap < window")
    if batch < 1 or workers < 1:
        raise ModelError(f"batch of {batch} by {workers} workers: needs at least 1 of both")
    if model.needs_faces and faces is None:
        raise ModelError(f"{type(model).__name__} needs a picture of each person's face, and got none")
    n_frames = -(-n_samples // SAMPLES_PER_FRAME)
    plan = _Plan(n_samples, n_frames, min(window, n_frames), overlap)
    gates = None if present is None else [presence_gate(p, n_frames) for p in present]
    network = BatchedModel(model, device, batch, workers, warn)
    return _blocks(
        plan, network, mixture if callable(mixture) else _reader(mixture), lips, gates, faces, conserve, hook
    )


def window_starts(n_frames: int, window: int, overlap: int) -> list[int]:
    """First frame of each window; the last one is moved back so that it ends at `n_frames`."""
    if n_frames <= window:
        return [0] if n_frames else []
    return [*range(0, n_frames - window, window - overlap), n_frames - window]


def crossfade(n_samples: int, n_overlap: int) -> np.ndarray:
    """Weight of a window: sin^2 up, flat, cos^2 down; strictly positive, and two neighbours sum to one.

    Windows that overlap by more than `n_overlap` (the last one, moved back) are put right by division by the sum.

    Shape: -> float32 (n_samples,), values in (0, 1].
    """
    rise = np.sin(np.pi / 2 * (np.arange(n_overlap) + 0.5) / max(n_overlap, 1)) ** 2
    weight = np.ones(n_samples)
    weight[:n_overlap] = rise
    weight[n_samples - n_overlap :] = np.minimum(weight[n_samples - n_overlap :], rise[::-1])
    return weight.astype(np.float32)


@dataclass(frozen=True)
class _Plan:
    n_samples: int
    n_frames: int
    window: int  # frames
    overlap: int  # frames


@dataclass
class _Window:
    start: int  # frame
    mixture: np.ndarray | None  # (T,); None when nobody is there
    estimates: np.ndarray | None  # (n_people, T)
    unheard: set[int]  # people whose pass through the model is still to come


def _blocks(
    plan: _Plan, network: BatchedModel, read, lips, gates, faces, conserve: bool, hook: Hook | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Overlap-add of the separated windows; yields what no later window can change any more."""
    starts = window_starts(plan.n_frames, plan.window, plan.overlap)
    n_window = plan.window * SAMPLES_PER_FRAME
    weight = crossfade(n_window, plan.overlap * SAMPLES_PER_FRAME if len(starts) > 1 else 0)  # (T,)
    total = np.zeros((len(lips), n_window), np.float32)
    weights = np.zeros(n_window, np.float32)
    set_levels = None if network.model.keeps_level else Levels()
    windows = _separated(starts, plan, network, read, lips, gates, faces)
    for done, (window, following) in enumerate(zip(windows, [*starts[1:], None], strict=True), 1):
        first = window.start * SAMPLES_PER_FRAME  # `total` and `weights` begin here
        weights += weight
        if window.estimates is not None:
            estimates = _gated(window, plan, gates)  # first, so that what is cut off claims no share of the mixture
            if set_levels:
                estimates = set_levels(estimates, window.mixture)
            elif conserve:
                estimates = within_mixture(estimates, window.mixture)
            total += weight * estimates
        n_final = n_window if following is None else (following - window.start) * SAMPLES_PER_FRAME
        block = total[:, :n_final] / weights[:n_final]  # (n_people, n_final)
        total = np.pad(total[:, n_final:], ((0, 0), (0, n_final)))
        weights = np.pad(weights[n_final:], (0, n_final))
        if hook:
            hook("separate", done, len(starts))
        yield first, block[:, : plan.n_samples - first]


def _gated(window: _Window, plan: _Plan, gates) -> np.ndarray:
    """Estimates with the gates of absent people closed. -> (n_people, T)"""
    if gates is None:
        return window.estimates
    return window.estimates * np.stack([gate_samples(gate, window.start, plan.window) for gate in gates])


def _separated(starts: list[int], plan: _Plan, network: BatchedModel, read, lips, gates, faces) -> Iterator[_Window]:
    """Windows in order, each with its estimates; passes are batched over people and neighbouring windows."""
    waiting: list[_Window] = []
    queue: list[tuple[_Window, list[int | None]]] = []  # (window, the people of one pass; None: an empty place)
    at_once, n_faces = network.model.faces_at_once, network.model.n_faces

    def run(n_passes: int) -> None:
        inputs = []
        for window, people in queue[:n_passes]:
            seen = {k: _read_lips(lips[k], window.start, plan.window) for k in people if k is not None}
            pictures = [side_by_side(seen, people)]  # (n_faces, F, H, W)
            if network.model.needs_faces:
                pictures.append(side_by_side(faces, people))  # (n_faces, 3, P, P)
            inputs.append((window.mixture, *(p if at_once else p[0] for p in pictures)))
        for (window, people), estimates in zip(queue[:n_passes], network(inputs), strict=True):
            for k, estimate in zip(people, estimates, strict=True):
                if k in window.unheard:
                    window.estimates[k] = estimate
                    window.unheard.remove(k)
        del queue[:n_passes]

    for start in starts:
        window = _Window(start, None, None, set())
        waiting.append(window)
        active = [k for k in range(len(lips)) if gates is None or gates[k][start : start + plan.window + 1].any()]
        if active:
            window.mixture = _read_mixture(read, plan, start)
            window.estimates = np.zeros((len(lips), len(window.mixture)), np.float32)
            window.unheard = set(active)
            queue += [(window, people) for people in face_groups(active, n_faces)]
        while len(queue) >= network.batch or (queue and not active):
            run(network.batch)
        while waiting and not waiting[0].unheard:
            yield waiting.pop(0)
    while queue:
        run(network.batch)
    yield from waiting


def _reader(mixture: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: mixture[start:stop]


def _read_mixture(read, plan: _Plan, start: int) -> np.ndarray:
    """The sound of a window, filled with silence to the end of the last video frame. -> float32 (T,)"""
    first, n_window = start * SAMPLES_PER_FRAME, plan.window * SAMPLES_PER_FRAME
    piece = np.asarray(read(first, min(first + n_window, plan.n_samples)), dtype=np.float32)
    return np.pad(piece, (0, n_window - len(piece)))


def _read_lips(lips: LipStream, start: int, n_frames: int) -> np.ndarray:
    """Lip pictures of a window, neutral beyond the end of the video. -> float32 (n_frames, H, W)"""
    stop = min(start + n_frames, lips.n_frames)
    pictures = lips.read(min(start, stop), stop)
    return np.pad(pictures, ((0, n_frames - len(pictures)), (0, 0), (0, 0)))
