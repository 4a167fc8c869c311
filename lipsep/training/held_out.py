"""What a training is worth to strangers: the talkers whom its recipe holds out, in pairs, once it has ended.

No weights are chosen by it, and no clip of these talkers has trained or validated.
"""

from __future__ import annotations

import csv
import dataclasses
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from torch.utils.data import DataLoader

from lipsep.data.clips.clips import TalkingClips
from lipsep.data.mixing.mixing import MixingConfig, Mixtures, collate
from lipsep.lips.recipes import lip_recipe
from lipsep.system.outputs import whole_file
from lipsep.training.corpora import plain
from lipsep.training.separation import SeparationTraining

HELD_OUT = "held_out.csv"
COLUMNS = ("first", "second", "mixtures", "si_snri_db", "two_cue")
PER_PAIR = 8  # mixtures
BATCH = 4  # of them


@torch.inference_mode()
def score_pairs(
    module: SeparationTraining,
    clips: TalkingClips,
    mixing: MixingConfig,
    n_mixtures: int,
    seed: int,
    face_size: int | None = None,
) -> list[dict[str, Any]]:
    """A row of `COLUMNS` for each pair of talkers: mean SI-SNRi of both voices, dB, and the share of mixtures in which
    both lips fetch their own voice.

    Args:
        clips: of two talkers or more.
        mixing: of the training; its lengths and levels count. Mixtures are of the two voices alone.
        n_mixtures: per pair, at random places.
        face_size: pixels of the faces that the model needs; None: it needs none.
    """
    config = dataclasses.replace(plain(mixing), distinct_talkers=True, speakers=2, noise=0.0, bin_pipeline=None)
    module.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    rows = []
    for pair in combinations(sorted(set(clips.talkers)), 2):
        of_pair = clips.select(i for i, talker in enumerate(clips.talkers) if talker in pair)
        recipe = lip_recipe(module.model.lip_recipe)
        mixtures = Mixtures(of_pair, None, None, config, recipe, n_mixtures, seed, face_size=face_size)
        improvements, own = [], []
        for batch in DataLoader(mixtures, BATCH, collate_fn=collate):
            improvement, fetched = module.judge(tuple(part.to(module.device) for part in batch))
            improvements += improvement.flatten().tolist()
            own += fetched.tolist()
        rows.append(dict(zip(COLUMNS, (*pair, n_mixtures, round(mean(improvements), 3), mean(own)), strict=True)))
    module.cpu()
    return rows


def write_report(rows: list[dict[str, Any]], path: Path) -> dict[str, float]:
    """Write what `score_pairs` found, complete or not at all; tell and return the means over all pairs."""
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    means = {column: round(mean(row[column] for row in rows), 3) for column in ("si_snri_db", "two_cue")}
    Console(stderr=True).print(
        f"held-out talkers, {len(rows)} pairs: {means['si_snri_db']:+.2f} dB SI-SNRi, two-cue {means['two_cue']:.0%}; "
        f"each pair in '{path}'",
        highlight=False,
        soft_wrap=True,
    )
    return means
