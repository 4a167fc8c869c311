"""Noise corpora: where they keep their sounds, and noise to train with, all of a split end to end on disk.

Published splits are kept: WHAM!'s folders, and of ESC's five folds 1 to 3 train, 4 validates and 5 tests. NOISEX-92 and
DEMAND have none: of every recording the first eight tenths train, the ninth validates and the last tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from scipy.io import loadmat
from scipy.signal import resample_poly

from lipsep.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.errors import MediaError
from lipsep.system.outputs import whole_file

NOISEX_RATE = 19_980  # Hz, of the .mat files, which do not say
NOISEX_NAMES = frozenset(
    {"white", "pink", "babble", "factory1", "factory2", "buccaneer1", "buccaneer2", "f16", "destroyerengine",
     "destroyerops", "leopard", "m109", "volvo", "machinegun", "hfchannel"}
)  # fmt: skip
ESC_FOLDS = {"1": "train", "2": "train", "3": "train", "4": "val", "5": "test"}
WHAM_SPLITS = {"tr": "train", "cv": "val", "tt": "test"}
BY_TIME = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}


@dataclass(frozen=True)
class NoiseSource:
    """A stretch of one recording.

    Attributes:
        name: unique in its corpus and split.
        talker: the kind of noise; where corpora of voices say who speaks.
        split: ``train``, ``val`` or ``test``.
        sound: the recording; of several channels the first.
        part: from, to, in shares of the recording.
    """

    name: str
    talker: str
    split: str
    sound: Path
    part: tuple[float, float] = (0.0, 1.0)

    def read(self) -> np.ndarray:
        """(T,) int16 at 16 kHz.

        Raises:
            MediaError: the file cannot be read.
        """
        sound, rate = _read(self.sound)
        ratio = Fraction(SAMPLE_RATE, rate)
        if ratio != 1:
            sound = resample_poly(sound, ratio.numerator, ratio.denominator)
        start, stop = (round(share * len(sound)) for share in self.part)
        return np.clip(np.round(sound[start:stop] * 32768), -32768, 32767).astype(np.int16)


def find_noises(corpus: str, root: Path) -> list[NoiseSource]:
    """Every stretch of a noise corpus in its published layout, in order of name.

    Args:
        corpus: one of `NOISE_LAYOUTS`.

    Raises:
        MediaError: the folder does not look like it; the message says what was looked for.
    """
    find, looks_like = NOISE_LAYOUTS[corpus]
    sources = sorted(find(root), key=lambda source: source.name) if root.is_dir() else []
    if not sources:
        raise MediaError(f"{root} does not look like {corpus}: no {looks_like} there")
    return sources


def _noisex(root: Path) -> Iterable[NoiseSource]:
    """``babble.wav`` or ``babble.mat`` and the 14 others, in one folder."""
    for path in _sounds(root, ".wav", ".mat"):
        if path.stem.lower() in NOISEX_NAMES:
            yield from _by_time(path.stem.lower(), path.stem.lower(), path)


def _demand(root: Path) -> Iterable[NoiseSource]:
    """``DKITCHEN/ch01.wav`` to ``ch16.wav`` and 17 other places; the first microphone of the sixteen."""
    for path in _sounds(root, ".wav"):
        if path.stem == "ch01":
            yield from _by_time(path.parent.name, path.parent.name, path)


def _wham(root: Path) -> Iterable[NoiseSource]:
    """``wham_noise/{tr,cv,tt}/*.wav``."""
    base = root / "wham_noise" if (root / "wham_noise").is_dir() else root
    for folder, split in WHAM_SPLITS.items():
        for path in _sounds(base / folder, ".wav"):
            yield NoiseSource(path.stem, "wham", split, path)


def _esc(root: Path) -> Iterable[NoiseSource]:
    """ESC-50's ``audio/1-100032-A-0.wav`` (fold, recording, take, class), ESC-10's ``001 - Dog bark/1-30226-A.ogg``."""
    for path in _sounds(root, ".wav", ".ogg"):
        parts = path.stem.split("-")
        if len(parts) in (3, 4) and parts[0] in ESC_FOLDS:
            kind = parts[3] if len(parts) == 4 else path.parent.name
            yield NoiseSource(path.stem, kind, ESC_FOLDS[parts[0]], path)


def _by_time(name: str, kind: str, path: Path) -> Iterable[NoiseSource]:
    return (NoiseSource(name, kind, split, path, part) for split, part in BY_TIME.items())


def _sounds(root: Path, *suffixes: str) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.name[0] != ".")


def _read(path: Path) -> tuple[np.ndarray, int]:
    """The first channel (T,) in [-1, 1], and its rate in Hz."""
    try:
        if path.suffix == ".mat":
            arrays = [value for value in loadmat(path).values() if isinstance(value, np.ndarray) and value.size > 1]
            return np.ravel(arrays[0]).astype(np.float32) / 32768, NOISEX_RATE
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, ValueError, IndexError, soundfile.LibsndfileError) as error:
        raise MediaError(f"'{path}' cannot be read: {error}") from None
    return sound[:, 0], rate


NOISE_LAYOUTS: dict[str, tuple[Callable[[Path], Iterable[NoiseSource]], str]] = {
    "noisex92": (_noisex, "babble.wav, white.wav, ... (or .mat)"),
    "wham": (_wham, "wham_noise/tr/*.wav, cv, tt"),
    "demand": (_demand, "DKITCHEN/ch01.wav and its likes"),
    "esc": (_esc, "audio/1-100032-A-0.wav or 001 - Dog bark/1-30226-A.ogg and their likes"),
}


def save_noises(path: Path, sources: Sequence[NoiseSource], sounds: Sequence[np.ndarray]) -> None:
    """Write one shard, complete or not at all: ``.sounds.npy`` with all sounds end to end, then ``.npz`` with what they
    are, as corpora of voices have it."""
    for target, save in (
        (path.with_suffix(".sounds.npy"), lambda file: np.save(file, np.concatenate([np.zeros(0, np.int16), *sounds]))),
        (path, lambda file: np.savez(
            file,
            names=np.array([source.name for source in sources]),
            talkers=np.array([source.talker for source in sources]),
            n_frames=np.array([len(sound) // SAMPLES_PER_FRAME for sound in sounds], np.int64),
        )),
    ):  # fmt: skip
        with whole_file(target) as part, part.open("wb") as file:
            save(file)
