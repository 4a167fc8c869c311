"""What is scored: mixtures with their references and, where a model is asked, the lips of everyone in them.

Two sources of cases:

- a manifest (`lipsep.data.manifest`) of filmed clips, whose lips are found by the product's own pipeline;
- a folder of finished mixtures in the layout of LRS2-2Mix and its likes: ``mix/NAME.wav``, ``s1/NAME.wav``,
  ``s2/NAME.wav``, ... and ``mouths/ID.npz`` (``data``: uint8 (F, H, W)), where NAME joins ``ID_gain`` of each source by
  ``_`` (an ID is ``video_utterance``). ``mixture/`` and ``gt/`` are taken for ``mix/`` and ``s1/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.data.manifest import MixtureRow, mix, read_manifest, sources_of
from lipsep.errors import MediaError
from lipsep.faces import find_faces
from lipsep.lips import extract_lips, lip_recipe, normalise_picture
from lipsep.media import load_audio, read_frames

PUBLISHED_NAME = re.compile(r"(?P<id>[^_]+_[^_]+)_(?P<gain>-?\d+(?:\.\d+)?)(?:_|$)")


@dataclass(frozen=True)
class Case:
    """One mixture.

    Attributes:
        name: unique in its set.
        sources, talkers, gains_db: one each per source; gains NaN where unknown.
        mixture: (T,) float32, 16 kHz.
        references: (n_src, T) float32.
        lips: (n_src, F, S, S) float32 as the model's recipe makes them; None where only estimates are scored.
    """

    name: str
    sources: tuple[str, ...]
    talkers: tuple[str, ...]
    gains_db: tuple[float, ...]
    mixture: np.ndarray
    references: np.ndarray
    lips: np.ndarray | None = None

    def relative_level_db(self, k: int) -> float:
        """Level of source k against all others together."""
        others = sum(10 ** (gain / 10) for i, gain in enumerate(self.gains_db) if i != k)
        return float(self.gains_db[k] - 10 * np.log10(others)) if others else float("nan")


class Cases(Protocol):
    """A set of cases that worker processes can load one by one."""

    names: list[str]

    def preparations(self) -> list[str]:
        """What `prepare` must be called with, once each, before `load`."""

    def prepare(self, what: str) -> None: ...

    def load(self, index: int) -> Case: ...


def open_cases(data: Path, root: Path, recipe_name: str | None, cache: Path, which: slice = slice(None)) -> Cases:
    """The cases of a manifest or a folder.

    Args:
        root: folder that the paths in a manifest are relative to.
        recipe_name: lip recipe of the model that will be asked; None where no lips are needed.
        cache: an empty folder for what is computed once per clip.
        which: only these of them, in order.

    Raises:
        MediaError: `data` is neither, or holds no such mixtures.
    """
    cases: Cases
    if data.is_dir():
        cases = FolderCases(data, recipe_name)
        cases.names = cases.names[which]
    else:
        cases = ManifestCases(read_manifest(data)[which], root, recipe_name, cache)
    if not cases.names:
        raise MediaError(f"{data}: no mixture to score" + ("" if which == slice(None) else " of that number"))
    return cases


@dataclass
class ManifestCases:
    """Mixtures of filmed clips; voice and lips of each clip are computed once and kept in `cache`."""

    rows: list[MixtureRow]
    root: Path
    recipe_name: str | None
    cache: Path
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [row.mixture for row in self.rows]
        self._number = {name: number for number, name in enumerate(sources_of(self.rows))}

    def preparations(self) -> list[str]:
        return list(self._number)

    def prepare(self, what: str) -> None:
        voice, lips = load_filmed_voice(self.root / what, self.recipe_name)
        np.save(self._kept(what, "voice"), voice)
        if lips is not None:
            np.save(self._kept(what, "lips"), lips)

    def load(self, index: int) -> Case:
        row = self.rows[index]
        voices = [np.load(self._kept(name, "voice")) for name in row.sources]
        mixture, references = mix(voices, row.gains_db, row.first_frames)
        lips = None
        if self.recipe_name is not None:
            n_frames = len(mixture) // SAMPLES_PER_FRAME
            kept = (np.load(self._kept(name, "lips"), mmap_mode="r") for name in row.sources)
            begun = (pictures[first:] for pictures, first in zip(kept, row.first_frames, strict=True))
            lips = np.stack([_fit_frames(pictures, n_frames) for pictures in begun])  # (n_src, F, S, S)
        talkers = row.speakers or tuple(map(talker_of, row.sources))
        return Case(row.mixture, row.sources, talkers, row.gains_db, mixture, references, lips)

    def _kept(self, source: str, what: str) -> Path:
        return self.cache / f"{self._number[source]}.{what}.npy"


class FolderCases:
    """Finished mixtures on disk, see the module docstring."""

    def __init__(self, folder: Path, recipe_name: str | None) -> None:
        self.folder, self.recipe_name = folder, recipe_name
        self._mixtures = _first_folder(folder, "mix", "mixture")
        self._references = [_first_folder(folder, "s1", "gt")]
        while (more := folder / f"s{len(self._references) + 1}").is_dir():
            self._references.append(more)
        self.names = sorted(path.stem for path in self._mixtures.glob("*.wav"))
        if recipe_name is not None and not recipe_name.startswith("mouth_"):
            raise MediaError(
                f"{folder} holds mouth pictures, and this model needs lips by recipe '{recipe_name}', which are made "
                "from videos: use a manifest of filmed clips, or a model with a mouth_ recipe"
            )

    def preparations(self) -> list[str]:
        return []

    def prepare(self, what: str) -> None:
        raise AssertionError("mixtures in a folder need no preparation")

    def load(self, index: int) -> Case:
        name = self.names[index]
        mixture = load_audio(self._mixtures / f"{name}.wav")
        references = [load_audio(folder / f"{name}.wav") for folder in self._references]
        n_samples = min(len(mixture), *map(len, references))
        parts = [(m["id"], float(m["gain"])) for m in PUBLISHED_NAME.finditer(name)]
        if len(parts) != len(references):
            parts = [(f"{name}:{k}", float("nan")) for k in range(1, len(references) + 1)]
        ids, gains_db = zip(*parts, strict=True)
        lips = None
        if self.recipe_name is not None:
            n_samples = n_samples // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
            lips = np.stack([self._lips(name, identity, n_samples // SAMPLES_PER_FRAME) for identity in ids])
        cut = np.stack([reference[:n_samples] for reference in references])
        return Case(name, ids, tuple(map(talker_of, ids)), gains_db, mixture[:n_samples], cut, lips)

    def _lips(self, name: str, identity: str, n_frames: int) -> np.ndarray:
        path = self.folder / "mouths" / f"{identity}.npz"
        if not path.is_file():
            raise MediaError(f"mixture {name}: no mouth pictures at {path}; only --estimates can be scored without")
        with np.load(path, allow_pickle=False) as stored:
            pictures = stored["data"]  # (F, H, W) uint8
        size = lip_recipe(self.recipe_name).size
        top, left = ((side - size) // 2 for side in pictures.shape[1:])
        if top < 0 or left < 0:
            raise MediaError(f"{path}: pictures of {pictures.shape[1:]}, and the model needs {size}x{size}")
        return _fit_frames(normalise_picture(pictures[:, top : top + size, left : left + size]), n_frames)


def load_filmed_voice(path: Path, recipe_name: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Voice (T,) float32 at 16 kHz and lips (F, S, S) float32 of a clip with one talker.

    Raises:
        MediaError: no such file, or nobody is visible in it.
    """
    voice = load_audio(path)
    if recipe_name is None:
        return voice, None
    tracks = find_faces(read_frames(path), speakers=1)
    if not tracks:
        raise MediaError(f"{path}: no face found, so there are no lips to ask with")
    with extract_lips(tracks, read_frames(path, grey=True), lip_recipe(recipe_name))[0] as lips:
        return voice, lips.read(0, lips.n_frames)


def talker_of(source: str) -> str:
    """Who speaks, by the names of the usual corpora: what stands before the first ``_``, else the clip's folder."""
    path = Path(source)
    return path.stem.split("_")[0] if "_" in path.stem else path.parent.name or path.stem


@dataclass(frozen=True)
class Estimates:
    """Separated files of another system: ``s1/NAME.wav``, ..., or ``NAME/speaker_1.wav``, ..., or ``NAME.wav``."""

    folder: Path

    def read(self, case: Case) -> np.ndarray:
        """(n_src, T') float32, T' the shortest.

        Raises:
            MediaError: a file is missing; the message says where it was looked for.
        """
        waves = [load_audio(self._find(case, k)) for k in range(1, len(case.sources) + 1)]
        n_samples = min(map(len, waves))
        return np.stack([wave[:n_samples] for wave in waves])

    def _find(self, case: Case, k: int) -> Path:
        places = [self.folder / f"s{k}" / f"{case.name}.wav", self.folder / case.name / f"speaker_{k}.wav"]
        if len(case.sources) == 1:
            places.append(self.folder / f"{case.name}.wav")
        for place in places:
            if place.is_file():
                return place
        raise MediaError(f"mixture {case.name}: no estimate {k}; looked for {' and '.join(map(str, places))}")


def _fit_frames(pictures: np.ndarray, n_frames: int) -> np.ndarray:
    """Crop, or repeat the last picture: (F', S, S) -> (F, S, S)."""
    return np.pad(pictures[:n_frames], ((0, max(0, n_frames - len(pictures))), (0, 0), (0, 0)), mode="edge")


def _first_folder(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise MediaError(f"{folder}: no folder {' or '.join(names)}; a data folder has mix/, s1/, s2/ and mouths/")
