"""Masks of a separator over time and channels (BIN, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lipsep.errors import ModelError
from lipsep.evaluation.cases import Case
from lipsep.evaluation.evaluate import separate_case
from lipsep.models.base import SeparationModel
from lipsep.plots.style import PAGE_IN, figure

MASKS = ("masks", "mask", "mask_net")
"""Names of submodules whose output is the masks."""


def masks_of(model: SeparationModel, case: Case) -> dict[str, np.ndarray]:
    """What a model's submodule of one of the names in `MASKS` gave, per person.

    Returns:
        source -> (channels, time).

    Raises:
        ModelError: the model has no such submodule.
    """
    names = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in MASKS]
    if not names:
        raise ModelError(f"{model.name} shows no masks: it has no submodule named {' or '.join(MASKS)}")
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(names[0]).register_forward_hook(lambda _m, _i, output: seen.append(output))
    try:
        separate_case(model, case)
    finally:
        handle.remove()
    masks = torch.cat([output.flatten(0, -3) for output in seen])  # (>= n_src, channels, time)
    return {source: mask.float().cpu().numpy() for source, mask in zip(case.sources, masks, strict=False)}


def draw_masks(masks: dict[str, np.ndarray], path: Path, duration_s: float) -> list[Path]:
    """One panel per mask, channels ordered by how much they pass of the first source rather than of the others.

    Args:
        masks: title -> (channels, time), any non-negative scale, one for all.
    """
    values: Sequence[np.ndarray] = list(masks.values())
    order = np.argsort(values[0].mean(1) - sum(mask.mean(1) for mask in values[1:]))
    top = float(np.percentile(np.concatenate([mask.ravel() for mask in values]), 99))
    written: list[Path] = []
    with figure(path, PAGE_IN, 2.2, written) as drawn:
        row = drawn.subplots(1, len(masks), squeeze=False, sharey=True)[0]
        for axes, (title, mask) in zip(row, masks.items(), strict=True):
            axes.imshow(
                mask[order], origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=max(top, 1e-9),
                extent=(0, duration_s, 0, len(order)), interpolation="auto", rasterized=True,
            )  # fmt: skip
            axes.set(title=title, xlabel="s")
        row[0].set_ylabel("channel, ordered")
    return written
