"""How long windows should be, and how much they should overlap: quality and cost on long mixtures.

    python benchmarks/window_overlap.py FOLDER_WITH_grid_s1 [--model voices_first]

Joins four unseen sentences of GRID's talker s1 to 12 s of speech, mixes two such stretches, separates them with windows
of several lengths and overlaps, and prints SI-SNRi, the same within 0.1 s of the seams, and the cost relative to the
default of `lipsep.separation.windows`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lipsep.checkpoints.folder import load_model
from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.data.mixtures.manifest import mix
from lipsep.evaluation.cases import load_filmed_voice
from lipsep.losses import si_snr
from lipsep.separation.windows import separate_windows, window_starts

SETTINGS = [(2.0, 0.0), (2.0, 0.52), (2.0, 1.0), (4.0, 0.0), (4.0, 0.52), (4.0, 1.0), (4.0, 2.0), (8.0, 1.0)]
N_MIXTURES, N_JOINED = 12, 4


class FilmedVoice(NamedTuple):
    """One voice (T,) and its lip pictures (F, S, S)."""

    voice: np.ndarray
    lips: np.ndarray


class _Pictures:
    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures, self.n_frames = pictures, len(pictures)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.pictures[start:stop]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--model", default="voices_first")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.model)
    sources = sorted((arguments.root / "grid_s1").glob("s[rw]*.mp4"))
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(sources))[: 2 * N_MIXTURES * N_JOINED]
    needed = [FilmedVoice(*load_filmed_voice(sources[i], model.lip_recipe)[:2]) for i in chosen]
    stretches = [_join(needed[i : i + N_JOINED]) for i in range(0, len(needed), N_JOINED)]
    pairs = [(stretches[i], stretches[i + 1]) for i in range(0, len(stretches), 2)]
    print(f"{len(pairs)} mixtures of {len(pairs[0][0].voice) / SAMPLE_RATE:.1f} s, model {arguments.model}, one thread")
    print("window_s  overlap_s  SI-SNRi dB  at seams dB  seconds")
    for window_s, overlap_s in SETTINGS:
        start = time.process_time()
        scores = [_separate(model, pair, window_s, overlap_s) for pair in pairs]
        whole, seams = np.mean(scores, axis=0)
        print(f"{window_s:8.2f}  {overlap_s:9.2f}  {whole:10.2f}  {seams:11.2f}  {time.process_time() - start:7.1f}")


def _join(voices: list[FilmedVoice]) -> FilmedVoice:
    n_frames = [min(len(v.lips), len(v.voice) // SAMPLES_PER_FRAME) for v in voices]
    voice = np.concatenate([v.voice[: n * SAMPLES_PER_FRAME] for v, n in zip(voices, n_frames, strict=True)])
    return FilmedVoice(voice, np.concatenate([v.lips[:n] for v, n in zip(voices, n_frames, strict=True)]))


def _separate(model, pair: tuple[FilmedVoice, FilmedVoice], window_s: float, overlap_s: float) -> tuple[float, float]:
    """SI-SNRi of both voices over the whole mixture, and within 0.1 s of the middles of the cross-fades."""
    mixture, voices = mix([voice.voice for voice in pair], (0.0, 0.0))
    lips = [_Pictures(voice.lips) for voice in pair]
    blocks = separate_windows(model, mixture, len(mixture), lips, window_s=window_s, overlap_s=overlap_s, batch=1)
    estimates = np.concatenate([block for _, block in blocks], axis=1)
    near = np.zeros(len(mixture), bool)
    window, overlap = round(window_s * FPS), round(overlap_s * FPS)
    for first in window_starts(-(-len(mixture) // SAMPLES_PER_FRAME), window, overlap)[1:]:
        seam = first * SAMPLES_PER_FRAME + overlap * SAMPLES_PER_FRAME // 2  # the middle of the cross-fade
        near[max(0, seam - SAMPLE_RATE // 10) : seam + SAMPLE_RATE // 10] = True
    return _gain(estimates, voices, mixture), _gain(estimates[:, near], voices[:, near], mixture[near])


def _gain(estimates: np.ndarray, voices: np.ndarray, mixture: np.ndarray) -> float:
    estimates_t, voices_t, mixture_t = map(torch.from_numpy, (estimates, voices, mixture))
    return float((si_snr(estimates_t, voices_t) - si_snr(mixture_t.expand_as(voices_t), voices_t)).mean())


if __name__ == "__main__":
    main()
