"""Masks of a separator over time and channels (BIN, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lipsep.errors import ModelError
from lipsep.evaluation.cases import Case
from lipsep.evaluation.evaluate import separate_case
from lipsep.layers.masks import ReLUMasks
from lipsep.models.base import SeparationModel
from lipsep.plots.style import PAGE_IN, figure


def masks_of(model: SeparationModel, case: Case) -> dict[str, np.ndarray]:
    """The masks that a model with a `ReLUMasks` layer lays over the encoded mixture, per person.

    Returns:
        source -> (channels, time).

    Raises:
        ModelError: the model has no such layer.
    """
    layers = [module for module in model.modules() if isinstance(module, ReLUMasks)]
    if not layers:
        raise ModelError(
            f"{model.name} lays no masks over the mixture, or none that can be shown: try bin_12 or avlit_8"
        )
    seen: list[torch.Tensor] = []
    handle = layers[-1].register_forward_hook(lambda layer, inputs, _: seen.append(layer.values(inputs[0])))
    try:
        separate_case(model, case)
    finally:
        handle.remove()
    masks = torch.cat([values.flatten(0, 1) for values in seen])  # (>= n_src, T, N)
    return {source: mask.t().float().cpu().numpy() for source, mask in zip(case.sources, masks, strict=False)}


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
