"""What a model that refines its answer step by step gains from every step (BIN, Fig. 2 and 3)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from lipsep.constants import SAMPLE_RATE
from lipsep.errors import ModelError
from lipsep.evaluation.cases import Case
from lipsep.evaluation.evaluate import separate_case
from lipsep.losses import si_snr
from lipsep.models.base import SeparationModel
from lipsep.plots.masks import masks_of
from lipsep.plots.style import PAGE_IN, figure


def numbers_to_try(model: SeparationModel, wanted: Sequence[int] = ()) -> list[int]:
    """The wanted numbers of iterations; else 1, 2, 4, ... and as many as the model was made with.

    Raises:
        ModelError: the model does not iterate.
    """
    most = model.iterations
    if most is None:
        raise ModelError(f"{model.name} has no number of iterations to choose: try bin_12")
    return sorted(set(wanted)) or [*(2**n for n in range(most.bit_length()) if 2**n < most), most]


def quality_over_iterations(model: SeparationModel, cases: Iterable[Case], numbers: Sequence[int]) -> dict[int, float]:
    """Number of iterations -> mean SI-SNRi in dB over all utterances; the model is left as it was."""
    gains: dict[int, list[float]] = {number: [] for number in numbers}
    own = model.iterations
    for case in cases:
        references, mixture = torch.from_numpy(case.references), torch.from_numpy(case.mixture)
        before = si_snr(mixture.expand_as(references), references)  # (n_src,)
        for model.iterations in numbers:
            after = si_snr(torch.from_numpy(separate_case(model, case)), references)
            gains[model.iterations] += (after - before).tolist()
    model.iterations = own
    return {number: float(np.mean(found)) for number, found in gains.items()}


def write_quality(quality: dict[int, float], path: Path) -> Path:
    """A table that `lipsep.plots.curves.read_curves` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["iteration", "SI-SNRi"])
        writer.writerows((number, f"{gain:.4f}") for number, gain in quality.items())
    return path


def masks_over_iterations(
    model: SeparationModel, case: Case, numbers: Sequence[int]
) -> dict[int, dict[str, np.ndarray]]:
    """Number of iterations -> source -> mask (channels, time); the model is left as it was."""
    own, found = model.iterations, {}
    for model.iterations in numbers:
        found[model.iterations] = masks_of(model, case)
    model.iterations = own
    return found


@torch.inference_mode()
def encoded_voices(model: SeparationModel, case: Case) -> dict[str, np.ndarray]:
    """What masks should let pass: source -> the clean voice behind the audio encoder, magnitudes (channels, time)."""
    device = next(model.parameters()).device
    encoded = model.audio_encoder(torch.from_numpy(case.references).to(device)).abs()  # (n_src, T', N)
    return {source: voice.t().float().cpu().numpy() for source, voice in zip(case.sources, encoded, strict=True)}


def draw_masks_over_iterations(
    masks: dict[int, dict[str, np.ndarray]], clean: dict[str, np.ndarray], case: Case, path: Path
) -> list[Path]:
    """A row per number of iterations and one of the clean voices, each kind on a scale of its own; a column per person;
    channels are ordered by the last masks."""
    rows = {f"R = {number}": row for number, row in masks.items()}
    first, *others = list(masks.values())[-1].values()
    order = np.argsort(first.mean(1) - sum(mask.mean(1) for mask in others))
    top = max(float(np.percentile(np.stack(list(row.values())), 99)) for row in rows.values())
    tops = dict.fromkeys(rows, top) | {"clean": float(np.percentile(np.stack(list(clean.values())), 99))}
    rows["clean"] = clean
    written: list[Path] = []
    with figure(path, PAGE_IN, 1.4 * len(rows) + 0.4, written) as drawn:
        grid = drawn.subplots(len(rows), len(clean), squeeze=False, sharex=True, sharey=True)
        for axes_row, (label, row) in zip(grid, rows.items(), strict=True):
            for axes, values in zip(axes_row, row.values(), strict=True):
                axes.imshow(
                    values[order], origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=max(tops[label], 1e-9),
                    extent=(0, len(case.mixture) / SAMPLE_RATE, 0, len(order)), interpolation="auto", rasterized=True,
                )  # fmt: skip
            axes_row[0].set_ylabel(label)
        for axes, title in zip(grid[0], clean, strict=True):
            axes.set_title(title)
        for axes in grid[-1]:
            axes.set_xlabel("s")
    return written
