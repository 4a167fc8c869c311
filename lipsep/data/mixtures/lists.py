"""Lists of mixtures, published or drawn: who talks over whom, and how loud, so that others can score the same.

Names are ``ID_gain_ID_-gain`` (`data.mixtures.folders`). Gains are in dB, after every voice was brought to the same
power. Two protocols to draw by:

- ``look2hear`` (LRS2-2Mix and its likes): the first voice is raised by 0 to 5 dB, the second lowered by as much, as in
  the lists of CTCNet's authors; further voices, of which no list was at hand, lie within -5..5 dB.
- ``usev`` (Pan et al., ClearerVoice): every further voice lies within -10..10 dB of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from lipsep.data.mixtures.manifest import MixtureRow
from lipsep.data.names import Source, parse_name
from lipsep.errors import MediaError
from lipsep.system.outputs import whole_file

DIGITS = 5  # of the gains, behind the point, as published


def read_list(path: Path, sources: list[Source], root: Path) -> list[MixtureRow]:
    """A published list as rows about the clips of a corpus: one name per line, or one line ``ID.wav gain ID.wav -gain``
    as in the ``.scp`` files of CTCNet's authors; folders before a name and ``.wav`` behind it do not matter.

    Args:
        sources: of the corpus, from `lipsep.data.corpora.layouts.find_sources`: an ID is a source's name.
        root: of the corpus; the rows' paths are relative to it.

    Raises:
        MediaError: no such list, a line that is none, or an ID without a clip; the message says which.
    """
    if not path.is_file():
        raise MediaError(f"no list of mixtures at {path}; it has one name like ID_gain_ID_-gain per line")
    clips = {source.name: source for source in sources if not source.missing}
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        words = [PurePosixPath(word).name.removesuffix(".wav") for word in line.split()]
        name = "_".join(words)
        parts = parse_name(name)
        if not parts:
            raise MediaError(f"{path}, line {number}: {name} is no name like ID_gain_ID_-gain, with gains like -1.5")
        ids, gains_db = zip(*parts, strict=True)
        if missing := [identity for identity in ids if identity not in clips]:
            raise MediaError(f"{path}, line {number}: the corpus at {root} has no clip {missing[0]}")
        heard = [clips[identity] for identity in ids]
        splits = {clip.split for clip in heard}
        rows.append(_row(name, heard, gains_db, splits.pop() if len(splits) == 1 else "", root))
    return rows


def draw_list(
    sources: list[Source], root: Path, split: str, n_speakers: int, n_mixtures: int, protocol: str, seed: int
) -> list[MixtureRow]:
    """Mixtures of clips of different talkers; as first voice every clip comes once before any comes again.

    Args:
        sources: of a corpus, from `lipsep.data.corpora.layouts.find_sources`.
        root: of the corpus; the rows' paths are relative to it.
        split: of which clips are taken; those that are missing are left out.
        n_speakers: voices in each mixture, two or more.
        protocol: one of `PROTOCOLS`.
        seed: the same list for the same corpus and seed.

    Raises:
        MediaError: unknown protocol, or the split has too few talkers.
    """
    if protocol not in PROTOCOLS:
        raise MediaError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    clips = [source for source in sources if source.split == split and not source.missing]
    n_talkers = len({clip.talker for clip in clips})
    if n_talkers < n_speakers:
        splits = ", ".join(sorted({source.split for source in sources}))
        raise MediaError(
            f"split {split!r} has clips of {n_talkers} talkers, and mixtures of {n_speakers} were asked for: "
            f"the corpus has {splits}"
        )
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(clips)) for _ in range(-(-n_mixtures // len(clips)))])
    rows: dict[str, MixtureRow] = {}
    for number in range(n_mixtures):
        heard = [clips[order[number]]]
        while len(heard) < n_speakers:
            other = clips[int(rng.integers(len(clips)))]
            if other.talker not in {clip.talker for clip in heard}:
                heard.append(other)
        gains_db = tuple(round(gain, DIGITS) for gain in PROTOCOLS[protocol](n_speakers, rng))
        name = "_".join(f"{clip.name}_{gain:.{DIGITS}f}" for clip, gain in zip(heard, gains_db, strict=True))
        rows[name] = _row(name, heard, gains_db, split, root)
    return list(rows.values())


def write_names(path: Path, rows: list[MixtureRow]) -> None:
    """Write the names alone, one per line, as published."""
    with whole_file(path) as part:
        part.write_text("".join(f"{row.mixture}\n" for row in rows), encoding="utf-8")


def _row(name: str, heard: list[Source], gains_db: tuple[float, ...], split: str, root: Path) -> MixtureRow:
    paths = tuple(clip.video.relative_to(root).as_posix() for clip in heard)
    return MixtureRow(name, paths, gains_db, (), tuple(clip.talker for clip in heard), split)


def _look2hear(n_speakers: int, rng: np.random.Generator) -> list[float]:
    gain_db = float(rng.uniform(0, 5))
    return [gain_db, -gain_db, *rng.uniform(-5, 5, n_speakers - 2).tolist()]


def _usev(n_speakers: int, rng: np.random.Generator) -> list[float]:
    return [0.0, *rng.uniform(-10, 10, n_speakers - 1).tolist()]


PROTOCOLS: dict[str, Callable[[int, np.random.Generator], list[float]]] = {"look2hear": _look2hear, "usev": _usev}
