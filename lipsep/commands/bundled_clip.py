"""The bundled clip, of which the clean voices are known: separate it and say how well that went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import soundfile
import torch

from lipsep.constants import Hook
from lipsep.errors import FaceError
from lipsep.faces.tracks import FaceTrack
from lipsep.losses import si_snr
from lipsep.media.reading import load_audio
from lipsep.separator import SeparationResult, Separator


@dataclass(frozen=True)
class DemoResult:
    """Files of the run, and per person from left to right how much clearer the voice became."""

    result: SeparationResult
    si_snr_before_db: list[float]
    si_snri_db: list[float]


def run_demo(separator: Separator, out_dir: Path, hook: Hook | None = None) -> DemoResult:
    """Separate the bundled clip into `out_dir` (replacing an earlier demo) and score it against its clean voices.

    Raises:
        FaceError: not everyone in the clip was found, so voices cannot be matched with people.
    """
    assets = files("lipsep") / "assets"
    with as_file(assets / "demo.mp4") as clip, as_file(assets / "demo_voices.flac") as voices:
        result = separator(clip, out_dir, overwrite=True, hook=hook)
        clean, _ = soundfile.read(voices, dtype="float32", always_2d=True)  # (T, n), left to right
        mixture = load_audio(clip)
    if len(result.tracks) != clean.shape[1]:
        raise FaceError(f"found {len(result.tracks)} people in the bundled clip, which shows {clean.shape[1]}")
    estimates = [load_audio(out_dir / f"speaker_{track.person}.wav") for track in left_to_right(result.tracks)]
    scores = [_scores(mixture, estimate, voice) for estimate, voice in zip(estimates, clean.T, strict=True)]
    return DemoResult(result, [before for before, _ in scores], [after - before for before, after in scores])


def left_to_right(tracks: Sequence[FaceTrack]) -> list[FaceTrack]:
    """People by where they are in the picture on average."""
    return sorted(tracks, key=lambda track: float(np.nanmean(track.boxes[:, [0, 2]])))


def _scores(mixture: np.ndarray, estimate: np.ndarray, clean: np.ndarray) -> tuple[float, float]:
    """SI-SNR in dB of the mixture and of the estimate, over the length that all three share."""
    n = min(len(mixture), len(estimate), len(clean))
    signals = torch.from_numpy(np.stack([mixture[:n], estimate[:n]]))  # (2, n)
    before, after = si_snr(signals, torch.from_numpy(clean[:n].copy()).expand_as(signals)).tolist()
    return before, after
