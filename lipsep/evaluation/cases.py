"""What is scored: mixtures with their references and, where a model is asked, the lips of everyone in them.

Two sources of cases:

- a manifest (`lipsep.data.mixtures.manifest`) of filmed clips, whose lips are found by the product's own pipeline;
- a folder of finished mixtures as LRS2-2Mix and its likes are published (`lipsep.data.mixtures.folders`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.data.mixtures.folders import FinishedMixtures, check_pixels, fit_frames
from lipsep.data.mixtures.manifest import MixtureRow, mix, read_manifest, sources_of
from lipsep.data.names import talker_of
from lipsep.errors import MediaError
from lipsep.faces.tracks import find_faces
from lipsep.lips.reading import extract_lips
from lipsep.lips.recipes import lip_recipe
from lipsep.media.reading import load_audio, read_frames


@dataclass(frozen=True)
class Case:
    """One mixture.

    Attributes:
        name: unique in its set.
        sources, talkers, gains_db: one each per source; gains NaN where unknown.
        mixture: (T,) float32, 16 kHz.
        references: (n_src, T) float32.
        lips: (n_src, F, S, S) float32 as the model's recipe makes them; None where only estimates are scored.
        faces: each person's face, uint8 (H, W, 3) RGB; empty where only mouths are known.
    """

    name: str
    sources: tuple[str, ...]
    talkers: tuple[str, ...]
    gains_db: tuple[float, ...]
    mixture: np.ndarray
    references: np.ndarray
    lips: np.ndarray | None = None
    faces: tuple[np.ndarray, ...] = ()

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
        voice, lips, face = load_filmed_voice(self.root / what, self.recipe_name)
        np.save(self._kept(what, "voice"), voice)
        if lips is not None:
            np.save(self._kept(what, "lips"), lips)
            np.save(self._kept(what, "face"), face)

    def load(self, index: int) -> Case:
        row = self.rows[index]
        voices = [np.load(self._kept(name, "voice")) for name in row.sources]
        mixture, references = mix(voices, row.gains_db, row.first_frames)
        lips, faces = None, ()
        if self.recipe_name is not None:
            faces = tuple(np.load(self._kept(name, "face")) for name in row.sources)
            n_frames = len(mixture) // SAMPLES_PER_FRAME
            kept = (np.load(self._kept(name, "lips"), mmap_mode="r") for name in row.sources)
            begun = (pictures[first:] for pictures, first in zip(kept, row.first_frames, strict=True))
            lips = np.stack([fit_frames(pictures, n_frames) for pictures in begun])  # (n_src, F, S, S)
        talkers = row.speakers or tuple(map(talker_of, row.sources))
        return Case(row.mixture, row.sources, talkers, row.gains_db, mixture, references, lips, faces)

    def _kept(self, source: str, what: str) -> Path:
        return self.cache / f"{self._number[source]}.{what}.npy"


class FolderCases:
    """Finished mixtures on disk, see `lipsep.data.mixtures.folders`."""

    def __init__(self, folder: Path, recipe_name: str | None) -> None:
        self.folder, self.recipe_name = FinishedMixtures(folder), recipe_name
        self.names = self.folder.names
        if recipe_name is not None:
            check_pixels(folder, recipe_name)

    def preparations(self) -> list[str]:
        return []

    def prepare(self, what: str) -> None:
        raise AssertionError("mixtures in a folder need no preparation")

    def load(self, index: int) -> Case:
        name = self.names[index]
        mixture, references = self.folder.sound(name)
        ids, gains_db = zip(*self.folder.parts(name), strict=True)
        lips = None
        if self.recipe_name is not None:
            n_frames = len(mixture) // SAMPLES_PER_FRAME
            mixture, references = (sound[..., : n_frames * SAMPLES_PER_FRAME] for sound in (mixture, references))
            size = lip_recipe(self.recipe_name).size
            lips = np.stack([fit_frames(self.folder.mouth(name, identity, size), n_frames) for identity in ids])
        return Case(name, ids, tuple(map(talker_of, ids)), gains_db, mixture, references, lips)


def load_filmed_voice(path: Path, recipe_name: str | None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Voice (T,) float32 at 16 kHz, lips (F, S, S) float32 and face uint8 (H, W, 3) RGB of a clip with one talker.

    Raises:
        MediaError: no such file, or nobody is visible in it.
    """
    voice = load_audio(path)
    if recipe_name is None:
        return voice, None, None
    tracks = find_faces(read_frames(path), speakers=1)
    if not tracks:
        raise MediaError(f"{path}: no face found, so there are no lips to ask with")
    with extract_lips(tracks, read_frames(path, grey=True), lip_recipe(recipe_name))[0] as lips:
        return voice, lips.read(0, lips.n_frames), tracks[0].thumbnail


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
