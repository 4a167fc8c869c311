"""Mixtures as the field publishes them (LRS2-2Mix and its likes): what their names say, and folders of finished sound.

A name joins ``ID_gain`` of each source by ``_``, for example ``65326_00011_1.5_63303_00006_-1.5``. An ID is the path of
the clip in its corpus with ``_`` for ``/``. A gain has a decimal point; so an ID may hold ``_`` and ``-`` of its own,
as those of YouTube do. A folder has ``mix/NAME.wav``, ``s1/NAME.wav``, ``s2/NAME.wav``, ... and ``mouths/ID.npz``
(``data``: uint8 (F, H, W)), which may also lie up to three levels above, for all splits together; ``mixture/`` and
``gt/`` are taken for ``mix/`` and ``s1/``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from lipsep.constants import SAMPLE_RATE
from lipsep.data.clips.pictures import cut, read_zipped
from lipsep.data.names import parse_name
from lipsep.errors import MediaError
from lipsep.lips.recipes import normalise_picture
from lipsep.media.reading import load_audio


class FinishedMixtures:
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
        mouths = (place / "mouths" for place in (folder, *folder.resolve().parents[:3]))
        self._mouths = next((place for place in mouths if place.is_dir()), folder / "mouths")

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
        mixture = load_wav(self._mixtures / f"{name}.wav")
        references = [load_wav(self.reference_path(name, k)) for k in range(self.n_src)]
        n_samples = min(len(mixture), *map(len, references))
        return mixture[:n_samples], np.stack([reference[:n_samples] for reference in references])

    def reference_path(self, name: str, k: int) -> Path:
        """The sound of source k, counted from 0."""
        return self._references[k] / f"{name}.wav"

    def mouth_path(self, identity: str) -> Path:
        """The pictures of one source."""
        return self._mouths / f"{identity}.npz"

    def mouth(self, name: str, identity: str, size: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Normalised pictures (F, S, S) float32 of one source: the middle; with `rng` somewhere near it, half of them
        mirrored, as the field trains.

        Raises:
            MediaError: no such pictures, or too small ones.
        """
        path = self.mouth_path(identity)
        if not path.is_file():
            raise MediaError(f"mixture {name}: no mouth pictures at {path}; only --estimates can be scored without")
        try:
            return normalise_picture(cut(read_zipped(path), size, rng))
        except MediaError as error:
            raise MediaError(f"{path}: {error}") from None


def load_wav(path: Path) -> np.ndarray:
    """As `lipsep.media.reading.load_audio`, but quick where the file is what is published: mono at 16 kHz."""
    try:
        with soundfile.SoundFile(path) as file:
            if (file.samplerate, file.channels) == (SAMPLE_RATE, 1):
                return file.read(dtype="float32")
    except soundfile.LibsndfileError:
        pass  # a file that is missing or damaged is told below
    return load_audio(path)


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
