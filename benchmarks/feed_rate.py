"""How many training mixtures a second one core reads, cuts and mixes: 2 s, two voices, asked with both mouths.

    python benchmarks/feed_rate.py

Everything lies in a temporary folder, so the disk is as quick as memory; where files come from a slower one, its rate
counts. `training.workers` of a recipe is the number of cores that do this.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.data import Dataset

from lipsep.constants import SAMPLE_RATE
from lipsep.data.clips.clips import TalkingClips
from lipsep.data.mixing.mixing import MixingConfig, Mixtures
from lipsep.data.mixing.mouth_augmentation import MouthConfig
from lipsep.data.mixtures.training import TRAINING, FinishedTraining, open_split
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.lips.recipes import CROP_SIZE, lip_recipe

N_CLIPS, CLIP_S = 40, 4.0
AS_PAPERS = {"segment_s": 2.0, "pace": (1.0, 1.0), "own_pace": 1.0, "dropped": 0.0, "noise": 0.0}


def rate(data: Dataset, seconds: float) -> float:
    """Items per second, the first one not counted."""
    data[0]
    begin, n = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < seconds:
        n += 1
        data[n]
    return n / elapsed


def with_pictures(clips: TalkingClips, folder: Path) -> TalkingClips:
    """The same clips, written and read again, with grey noise for mouths."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (n, CROP_SIZE, CROP_SIZE), np.uint8) for n in clips.n_frames]
    TalkingClips(clips.names, clips.talkers, clips.n_frames, clips.voices, clips.mouths, pictures).save(
        folder / "c.npz"
    )
    return TalkingClips.load(folder / "c.npz")


def publish(clips: TalkingClips, root: Path) -> None:
    """The clips in pairs as a published folder of mixtures; mouths are smooth, as filmed ones are, and compressed."""
    base = root / TRAINING
    for part in ("mix", "s1", "s2", "mouths"):
        (base / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(0, len(clips) - 1, 2):
        pair = clips[k], clips[k + 1]
        name = "_".join(
            f"{clip.name.replace('-', '_')}_{gain}" for clip, gain in zip(pair, ("1.0", "-1.0"), strict=True)
        )
        for part, sound in (("s1", pair[0].voice), ("s2", pair[1].voice), ("mix", pair[0].voice + pair[1].voice)):
            soundfile.write(base / part / f"{name}.wav", sound, SAMPLE_RATE)
        for clip in pair:
            coarse = torch.from_numpy(rng.random((clip.n_frames, 1, 12, 12), np.float32))
            pictures = torch.nn.functional.interpolate(coarse, size=(CROP_SIZE, CROP_SIZE), mode="bicubic")[:, 0]
            data = (255 * pictures.clamp(0, 1)).numpy().astype(np.uint8)
            np.savez_compressed(base / "mouths" / f"{clip.name.replace('-', '_')}.npz", data=data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each feed is watched")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    clips = synthetic_corpus(N_CLIPS // 2, 2, CLIP_S, seed=0)
    endless = 10**9
    still, lively = MixingConfig(**AS_PAPERS, mouths=None), MixingConfig(mouths=MouthConfig())
    with tempfile.TemporaryDirectory() as place:
        filmed = with_pictures(clips, Path(place))
        publish(clips, Path(place) / "published")
        published = open_split(Path(place) / "published", TRAINING)
        feeds = {
            "shards, pixels (mouth_88), cut and mirrored": Mixtures(
                filmed, None, None, still, lip_recipe("mouth_88"), endless, 0
            ),
            "published folder, pixels (mouth_88)": FinishedTraining(
                published, lip_recipe("mouth_88"), 2.0, endless, 0, drawn=True
            ),
            "shards, drawn mouths (mesh_88)": Mixtures(filmed, None, None, still, lip_recipe("mesh_88"), endless, 0),
            "shards, points (points_8), as the default weights": Mixtures(
                filmed, None, None, lively, lip_recipe("points_8"), endless, 0
            ),
        }
        for name, feed in feeds.items():
            print(f"{name:<52} {rate(feed, seconds):7.1f} mixtures/s on one core", flush=True)


if __name__ == "__main__":
    main()
