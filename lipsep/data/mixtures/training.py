"""Training from finished mixtures: ``wav16k/min/{tr,cv,tt}/{mix,s1,s2}`` and ``mouths/``.

`FinishedTraining` gives stretches of the mixtures to the separator, `FinishedClips` the clean voices with their
mouths to what is taught before it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipsep.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.data.clips.clips import TalkingClip
from lipsep.data.clips.pictures import ZippedPictures
from lipsep.data.mixtures.folders import FinishedMixtures, check_pixels, fit_frames, load_wav
from lipsep.data.names import parse_name, talker_of
from lipsep.errors import MediaError
from lipsep.lips.recipes import LipRecipe

TRAINING, VALIDATION = "tr", "cv"


def open_split(root: Path, split: str) -> FinishedMixtures:
    """The mixtures of a split (`TRAINING`, `VALIDATION`) of a finished corpus, to train with.

    Args:
        root: the folder that holds ``tr/`` and ``cv/``, or the one that holds ``wav16k/min/``.

    Raises:
        MediaError: no such folder, no mixtures, or names that do not tell the mouths.
    """
    inner = root / "wav16k" / "min"
    folder = (inner if inner.is_dir() else root) / split
    if not folder.is_dir():
        raise MediaError(
            f"there is no folder '{folder}': 'finished' is one that holds tr/ and cv/, or wav16k/min/ with them"
        )
    mixtures = FinishedMixtures(folder)
    if not mixtures.names or mixtures.n_src < 2:
        raise MediaError(f"{mixtures.folder}: {len(mixtures.names)} mixtures of {mixtures.n_src} voices to train on")
    for name in mixtures.names:
        if len(parse_name(name)) != mixtures.n_src:
            raise MediaError(f"{mixtures.folder}: mixture {name} does not name {mixtures.n_src} mouths and gains")
    return mixtures


class FinishedTraining(Dataset):
    """Stretches of finished mixtures as the training loop takes them; item `i` of epoch `e` depends on the seed, `e`
    and `i` only.

    Item: ``mixture (2, T)``, ``lips (2, F, S, S)``, ``sources (2, 1, T)``: one mixture asked with the mouths of two of
    its talkers, drawn anew where there are more.
    """

    def __init__(
        self,
        mixtures: FinishedMixtures,
        recipe: LipRecipe,
        segment_s: float,
        n_items: int,
        seed: int,
        drawn: bool,
        random_crop: bool = True,
    ) -> None:
        """
        Args:
            recipe: of the model's lip pictures: one from pixels.
            segment_s: length of an item; a shorter mixture is followed by silence.
            n_items: mixtures per epoch.
            drawn: at random, mixtures and stretches; otherwise the first ones in order, each as it begins.
            random_crop: mouths of drawn mixtures are cut near the middle, half of them mirrored.

        Raises:
            MediaError: lips that pictures cannot give.
        """
        check_pixels(mixtures.folder, recipe.name)
        self.mixtures, self.recipe, self.seed, self.epoch = mixtures, recipe, seed, 0
        self.n_frames = round(segment_s * SAMPLE_RATE / SAMPLES_PER_FRAME)
        self.drawn, self.random_crop = drawn, drawn and random_crop
        self.n_items = n_items if drawn else min(n_items, len(mixtures.names))

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if index >= self.n_items:
            raise IndexError(index)
        names, n_src = self.mixtures.names, self.mixtures.n_src
        rng = np.random.default_rng((self.seed, self.epoch, index))
        name = names[int(rng.integers(len(names))) if self.drawn else index]
        mixture, references = self.mixtures.sound(name)
        spare = len(mixture) // SAMPLES_PER_FRAME - self.n_frames
        start = int(rng.integers(spare + 1)) if self.drawn and spare > 0 else 0
        asked = rng.permutation(n_src)[:2] if self.drawn else np.arange(2)
        ids = [self.mixtures.parts(name)[k][0] for k in asked]
        crop = rng if self.random_crop else None
        pictures = [self.mixtures.mouth(name, identity, self.recipe.size, crop)[start:] for identity in ids]
        heard = slice(start * SAMPLES_PER_FRAME, (start + self.n_frames) * SAMPLES_PER_FRAME)
        sound = np.stack([mixture, *references[asked]])[:, heard]  # (3, T)
        sound = np.pad(sound, ((0, 0), (0, self.n_frames * SAMPLES_PER_FRAME - sound.shape[1])))
        return (
            torch.from_numpy(sound[[0, 0]]),
            torch.from_numpy(np.stack([fit_frames(picture, self.n_frames) for picture in pictures])),
            torch.from_numpy(sound[1:, None]),
        )


class FinishedClips:
    """The clean voices of finished mixtures with their filmed mouths, each clip once, read when it is needed; stands
    where `lipsep.data.clips.clips.TalkingClips` does.

    A voice is as long and as loud as in the first mixture that holds it.
    """

    def __init__(self, mixtures: FinishedMixtures) -> None:
        self.folder = mixtures.folder
        self._voices: dict[str, Path] = {}
        for name in mixtures.names:
            for k, (identity, _) in enumerate(mixtures.parts(name)):
                self._voices.setdefault(identity, mixtures.reference_path(name, k))
        self.names = list(self._voices)
        self.talkers = [talker_of(identity) for identity in self.names]
        self.pictures = [ZippedPictures(mixtures.mouth_path(identity)) for identity in self.names]

    @cached_property
    def n_frames(self) -> np.ndarray:
        """(clips,) int64."""
        sounds = map(soundfile.info, self._voices.values())
        return np.array([each.frames * SAMPLE_RATE // each.samplerate // SAMPLES_PER_FRAME for each in sounds])

    @property
    def mouths(self) -> np.ndarray:
        """
        Raises:
            MediaError: always: the mouths' points are not published.
        """
        raise MediaError(f"{self.folder} holds mouth pictures, no points: choose a model with lips by a mouth_ recipe")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> TalkingClip:
        voice = load_wav(self._voices[self.names[index]])
        points = np.zeros((len(voice) // SAMPLES_PER_FRAME, 0, 2), np.float32)
        return TalkingClip(self.names[index], self.talkers[index], voice, points, self.pictures[index])
