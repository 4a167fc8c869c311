"""What names of finished mixtures say: who talks, from when, how loud."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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


@dataclass(frozen=True)
class Source:
    """One clip with one talker.

    Attributes:
        name: unique in its corpus; path and name joined by ``_``, as published lists of mixtures call it.
        talker: who speaks; where the corpus does not say, the video that the clip is cut from.
        split: ``train``, ``val``, ``test``, ``pretrain`` or ``all``.
        video: path of the film, or of a folder with one picture for each 25th of a second.
        sound: path of the sound; None: the video's own.
        missing: why it cannot be used; empty: it can.
    """

    name: str
    talker: str
    split: str
    video: Path
    sound: Path | None = None
    missing: str = ""
