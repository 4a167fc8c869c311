"""A model over a manifest: every utterance scored, means, and the two-cue test.

Two-cue test: a mixture is asked once with each face. It passes when every answer is closer (SI-SNR) to the voice of
the face that asked than to any other voice in the mixture: swap the lips and the voices must swap. A system that
ignores the lips passes for at most half of the pairs.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.data.manifest import MixtureRow, mix, read_manifest, sources_of
from lipsep.errors import MediaError
from lipsep.evaluation.metrics import METRICS, score
from lipsep.faces import find_faces
from lipsep.lips import extract_lips, lip_recipe
from lipsep.losses import si_snr
from lipsep.media import load_audio, read_frames
from lipsep.models.base import SeparationModel

Hook = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class FilmedVoice:
    """A clip as the model meets it: voice (T,) float32 at 16 kHz, lips (F, S, S) float32 by the model's recipe."""

    voice: np.ndarray
    lips: np.ndarray


def evaluate(
    model: SeparationModel, manifest: Path, root: Path, out: Path | None = None, hook: Hook | None = None
) -> dict[str, float | dict]:
    """Score a model on every mixture of a manifest.

    Args:
        model: in eval mode.
        manifest: CSV, see `lipsep.data.manifest`.
        root: folder that the manifest's paths are relative to.
        out: folder for ``utterances.csv`` (every utterance) and ``means.json``; None writes nothing.

    Returns:
        Means over utterances of every metric, ``<metric>_undefined`` counts, ``two_cue`` (share of mixtures, 0..1),
        ``mixtures`` and ``utterances``; per group too, see `summarise`.
    """
    rows = read_manifest(manifest)
    voices = {}
    names = list(sources_of(rows))
    for completed, name in enumerate(names, start=1):
        voices[name] = load_filmed_voice(root / name, model.lip_recipe)
        if hook is not None:
            hook("lips", completed, len(names))
    scored = []
    for completed, row in enumerate(rows, start=1):
        scored.append(score_mixture(model, row, [voices[source] for source in row.sources]))
        if hook is not None:
            hook("mixtures", completed, len(rows))
    means = summarise(scored)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "utterances.csv").open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, ["mixture", "source", "own_voice", *METRICS], lineterminator="\n")
            writer.writeheader()
            writer.writerows(utterance for utterances in scored for utterance in utterances)
        (out / "means.json").write_text(json.dumps(means, indent=2) + "\n", encoding="utf-8")
    return means


def load_filmed_voice(path: Path, recipe_name: str) -> FilmedVoice:
    """Voice and lips of a clip with one talker.

    Raises:
        MediaError: no such file, or nobody is visible in it.
    """
    tracks = find_faces(read_frames(path), speakers=1)
    if not tracks:
        raise MediaError(f"{path}: no face found, so there are no lips to ask with")
    recipe = lip_recipe(recipe_name)
    with extract_lips(tracks, read_frames(path, grey=True), recipe)[0] as lips:
        return FilmedVoice(load_audio(path), lips.read(0, lips.n_frames))


@torch.inference_mode()
def score_mixture(model: SeparationModel, row: MixtureRow, voices: list[FilmedVoice]) -> list[dict]:
    """One dictionary per source: its metrics, and whether the answer is closest to its own voice."""
    mixture, sources = mix([voice.voice for voice in voices], row.gains_db)  # (T,), (n_src, T)
    n_frames = len(mixture) // SAMPLES_PER_FRAME
    lips = torch.from_numpy(np.stack([voice.lips[:n_frames] for voice in voices]))  # (n_src, F, S, S)
    mixture_t = torch.from_numpy(mixture)
    if model.faces_at_once:
        estimates = model(mixture_t[None], lips[None])[0]  # (n_src, T)
    else:
        estimates = model(mixture_t.expand(len(voices), -1), lips)[:, 0]  # (n_src, T)
    closeness = si_snr(estimates[:, None], torch.from_numpy(sources)[None])  # (n_src asked, n_src heard)
    return [
        {
            "mixture": row.mixture,
            "source": source,
            "own_voice": int(closeness[k].argmax()) == k,
            **score(estimates[k].numpy(), sources[k], mixture),
        }
        for k, source in enumerate(row.sources)
    ]


def summarise(scored: list[list[dict]]) -> dict[str, float | dict]:
    """Means that leave undefined values out and count them; the two-cue share over mixtures.

    Mixtures whose names share what stands before the last ``-`` form a group; where there are several groups, each
    has its means under ``groups``.
    """
    means = _means(scored)
    groups: dict[str, list[list[dict]]] = {}
    for utterances in scored:
        groups.setdefault(utterances[0]["mixture"].rpartition("-")[0], []).append(utterances)
    if len(groups) > 1:
        means["groups"] = {name: _means(members) for name, members in sorted(groups.items())}
    return means


def _means(scored: list[list[dict]]) -> dict[str, float | dict]:
    utterances = [utterance for mixture in scored for utterance in mixture]
    means: dict[str, float | dict] = {"mixtures": len(scored), "utterances": len(utterances)}
    for metric in METRICS:
        defined = [utterance[metric] for utterance in utterances if not math.isnan(utterance[metric])]
        means[metric] = float(np.mean(defined)) if defined else math.nan
        means[f"{metric}_undefined"] = len(utterances) - len(defined)
    means["two_cue"] = float(np.mean([all(u["own_voice"] for u in mixture) for mixture in scored]))
    return means
