"""Mixtures as the field publishes them (LRS2-2Mix and its likes): lists of names, and folders of finished sound.

A name joins ``ID_gain`` of each source by ``_``, for example ``65326_00011_1.5_63303_00006_-1.5``. An ID is the path of
the clip in its corpus with ``_`` for ``/``. A gain has a decimal point; so an ID may hold ``_`` and ``-`` of its own,
as those of YouTube do. A folder has ``mix/NAME.wav``, ``s1/NAME.wav``, ``s2/NAME.wav``, ... and ``mouths/ID.npz``
(``data``: uint8 (F, H, W)); ``mixture/`` and ``gt/`` are taken for ``mix/`` and ``s1/``.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipsep.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.data.manifest import MixtureRow
from lipsep.errors import MediaError
from lipsep.lips import LipRecipe, normalise_picture
from lipsep.media import load_audio

_PART = re.compile(r"(?P<id>.+?)_(?P<gain>-?\d+(?:\.\d+(?:e-?\d+)?|e-?\d+))(?:_|$)")
_PART_OF_WHOLE_DB = re.compile(r"(?P<id>[^_]+_[^_]+)_(?P<gain>-?\d+)(?:_|$)")
_VOXCELEB = re.compile(r"id\d{5}_")


def parse_name(name: str) -> list[tuple[str, float]]:
    """ID and gain in dB of each source; empty where the name is not of this kind."""
    for kind in (_PART, _PART_OF_WHOLE_DB):
        parts = list(kind.finditer(name))
        if len(parts) > 1 and sum(len(part[0]) for part in parts) == len(name):
            return [(part["id"], float(part["gain"])) for part in parts]
    return []


def talker_of(source: str) -> str:
    """Who speaks, by an ID or a path with the names of the usual corpora: VoxCeleb's person, else what stands before
    the last ``_`` (the video that an utterance is cut from), else the clip's folder."""
    path = PurePosixPath(source)
    if _VOXCELEB.match(path.stem):
        return path.stem.split("_")[0]
    return path.stem.rpartition("_")[0] if "_" in path.stem else path.parent.name or path.stem


def read_names(path: Path, corpus: Path, split: str = "") -> list[MixtureRow]:
    """A published list of mixtures, one name per line, as rows about the clips of a corpus.

    Args:
        path: the list; a ``.wav`` at the end of a name and folders before it do not matter.
        corpus: where ID ``a_b`` is the clip ``a/b.mp4``. IDs whose parts hold ``_`` are found by the files there are.

    Raises:
        MediaError: no such list, a name that is none, or an ID without a clip; the message says which.
    """
    if not path.is_file():
        raise MediaError(f"no list of mixtures at {path}; it has one name like ID_gain_ID_-gain per line")
    clips = {"_".join(clip.relative_to(corpus).with_suffix("").parts): clip for clip in sorted(corpus.rglob("*.mp4"))}
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name = PurePosixPath(line.strip()).name.removesuffix(".wav")
        if not name:
            continue
        parts = parse_name(name)
        if not parts:
            raise MediaError(f"{path}, line {number}: {name} is no name like ID_gain_ID_-gain, with gains like -1.5")
        ids, gains_db = zip(*parts, strict=True)
        if missing := [identity for identity in ids if identity not in clips]:
            raise MediaError(f"{path}, line {number}: {corpus} has no clip {missing[0].replace('_', '/', 1)}.mp4")
        sources = tuple(clips[identity].relative_to(corpus).as_posix() for identity in ids)
        rows.append(MixtureRow(name, sources, gains_db, (), tuple(map(talker_of, ids)), split))
    return rows


class PublishedMixtures:
    """One folder of finished mixtures; see the module docstring."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            MediaError: the folder has no mixtures or no references.
        """
        self.folder = folder
        self._mixtures = _first_folder(folder, "mix", "mixture")
        self._references = [_first_folder(folder, "s1", "gt")]
        while (more := folder / f"s{len(self._references) + 1}").is_dir():
            self._references.append(more)
        self.names = sorted(path.stem for path in self._mixtures.glob("*.wav"))

    @property
    def n_src(self) -> int:
        return len(self._references)

    def parts(self, name: str) -> list[tuple[str, float]]:
        """ID and gain in dB of each source; where the name does not tell, IDs ``NAME:k`` and NaN."""
        parts = parse_name(name)
        if len(parts) == self.n_src:
            return parts
        return [(f"{name}:{k}", float("nan")) for k in range(1, self.n_src + 1)]

    def sound(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mixture (T,) and references (n_src, T), float32, T the shortest."""
        mixture = load_audio(self._mixtures / f"{name}.wav")
        references = [load_audio(folder / f"{name}.wav") for folder in self._references]
        n_samples = min(len(mixture), *map(len, references))
        return mixture[:n_samples], np.stack([reference[:n_samples] for reference in references])

    def mouth(self, name: str, identity: str, size: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Normalised pictures (F, S, S) float32 of one source: the middle; with `rng` somewhere near it, half of them
        mirrored, as the field trains.

        Raises:
            MediaError: no such pictures, or too small ones.
        """
        path = self.folder / "mouths" / f"{identity}.npz"
        if not path.is_file():
            raise MediaError(f"mixture {name}: no mouth pictures at {path}; only --estimates can be scored without")
        with np.load(path, allow_pickle=False) as stored:
            pictures = stored["data"]  # (F, H, W) uint8
        rest = [side - size for side in pictures.shape[1:]]
        if min(rest) < 0:
            raise MediaError(f"{path}: pictures of {pictures.shape[1:]}, and the model needs {size}x{size}")
        top, left = (side // 2 if rng is None else int(rng.integers(side + 1)) for side in rest)
        cut = pictures[:, top : top + size, left : left + size]
        if rng is not None and rng.random() < 0.5:
            cut = cut[:, :, ::-1]
        return normalise_picture(cut)


class PublishedTraining(Dataset):
    """Stretches of published mixtures as the training loop takes them; item `i` of epoch `e` depends on the seed, `e`
    and `i` only.

    Item: ``mixture (2, T)``, ``lips (2, F, S, S)``, ``sources (2, 1, T)``: one mixture asked with the mouths of two of
    its talkers, drawn anew where there are more.
    """

    def __init__(
        self, mixtures: PublishedMixtures, recipe: LipRecipe, segment_s: float, n_items: int | None, seed: int
    ) -> None:
        """
        Args:
            recipe: of the model's lip pictures: one from pixels.
            segment_s: length of an item; a shorter mixture is followed by silence.
            n_items: mixtures per epoch, drawn at random and augmented; None: each once, in order, as it begins.

        Raises:
            MediaError: no mixtures, names that do not tell the mouths, or lips that pictures cannot give.
        """
        check_pixels(mixtures.folder, recipe.name)
        if not mixtures.names or mixtures.n_src < 2:
            raise MediaError(
                f"{mixtures.folder}: {len(mixtures.names)} mixtures of {mixtures.n_src} voices to train on"
            )
        for name in mixtures.names:
            if len(parse_name(name)) != mixtures.n_src:
                raise MediaError(f"{mixtures.folder}: mixture {name} does not name {mixtures.n_src} mouths and gains")
        self.mixtures, self.recipe, self.seed, self.epoch = mixtures, recipe, seed, 0
        self.n_frames = round(segment_s * SAMPLE_RATE / SAMPLES_PER_FRAME)
        self.augmented = n_items is not None
        self.n_items = len(mixtures.names) if n_items is None else n_items

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if index >= self.n_items:
            raise IndexError(index)
        names, n_src = self.mixtures.names, self.mixtures.n_src
        rng = np.random.default_rng((self.seed, self.epoch, index)) if self.augmented else None
        name = names[index if rng is None else int(rng.integers(len(names)))]
        mixture, references = self.mixtures.sound(name)
        spare = len(mixture) // SAMPLES_PER_FRAME - self.n_frames
        start = int(rng.integers(spare + 1)) if rng is not None and spare > 0 else 0
        asked = np.arange(2) if rng is None else rng.permutation(n_src)[:2]
        ids = [self.mixtures.parts(name)[k][0] for k in asked]
        pictures = [self.mixtures.mouth(name, identity, self.recipe.size, rng)[start:] for identity in ids]
        heard = slice(start * SAMPLES_PER_FRAME, (start + self.n_frames) * SAMPLES_PER_FRAME)
        sound = np.stack([mixture, *references[asked]])[:, heard]  # (3, T)
        sound = np.pad(sound, ((0, 0), (0, self.n_frames * SAMPLES_PER_FRAME - sound.shape[1])))
        return (
            torch.from_numpy(sound[[0, 0]]),
            torch.from_numpy(np.stack([fit_frames(picture, self.n_frames) for picture in pictures])),
            torch.from_numpy(sound[1:, None]),
        )


def check_pixels(folder: Path, recipe_name: str) -> None:
    """Raises:
    MediaError: a model with this lip recipe cannot be asked with mouth pictures.
    """
    if not recipe_name.startswith("mouth_"):
        raise MediaError(
            f"{folder} holds mouth pictures, and this model needs lips by recipe '{recipe_name}', which are made "
            "from videos: use a manifest of filmed clips, or a model with a mouth_ recipe"
        )


def fit_frames(pictures: np.ndarray, n_frames: int) -> np.ndarray:
    """Crop, or repeat the last picture: (F', S, S) -> (F, S, S); zeros where there is none."""
    if not len(pictures):
        return np.zeros((n_frames, *pictures.shape[1:]), pictures.dtype)
    return np.pad(pictures[:n_frames], ((0, max(0, n_frames - len(pictures))), (0, 0), (0, 0)), mode="edge")


def _first_folder(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise MediaError(f"{folder}: no folder {' or '.join(names)}; a data folder has mix/, s1/, s2/ and mouths/")
