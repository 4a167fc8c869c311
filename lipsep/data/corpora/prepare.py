"""The corpora that a recipe names -> clips, once; a second call finds the result and returns at once.

Filmed corpora become shards, as by `lipsep prepare` (`lipsep.data.corpora.shards`).
Unfilmed corpora: any folder of speech files (LibriSpeech: ``speaker-chapter-utterance``).
Noise: any folder of sound files (ESC: ``class_number``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lipsep.constants import Hook
from lipsep.data.clips.clips import TalkingClips, join, pack
from lipsep.data.clips.stored import Sliced
from lipsep.data.corpora.shards import (
    SUMMARY,
    is_prepared,
    load_noises,
    load_shards,
    prepare_shards,
    prepared_splits,
)
from lipsep.data.corpora.sound_to_mouth import N_NETWORKS, film, fit
from lipsep.errors import MediaError
from lipsep.media.reading import load_audio

AUDIO_SUFFIXES = frozenset({".opus", ".flac", ".wav", ".ogg", ".mp3", ".m4a"})


def prepare_filmed(folder: Path, prepared: Path, hook: Hook | None = None, layout: str = "folder") -> Path:
    """The folder with a filmed corpus in shards: `folder` itself where `lipsep prepare` wrote it, else where it is
    kept (`kept_at`); by all cores, and on from where an earlier call was cut off.

    Args:
        layout: one of `layouts.LAYOUTS`.

    Raises:
        MediaError: there is no such folder, it has another layout, or no clip can be used.
    """
    if is_prepared(folder):
        return folder
    where = kept_at(prepared, folder)
    if not is_prepared(where):
        prepare_shards(layout, folder, where, processes=os.cpu_count(), hook=hook)
    if not any(len(load_shards(where, split)) for split in prepared_splits(where)):
        raise MediaError(f"{folder}: no clip can be used; '{where / SUMMARY}' says of each why not")
    return where


def filmed_corpus(folder: Path, prepared: Path, hook: Hook | None = None, layout: str = "folder") -> TalkingClips:
    """Every clip of a filmed corpus with its talker's mouth, of all splits.

    Raises:
        MediaError: as `prepare_filmed`.
    """
    where = prepare_filmed(folder, prepared, hook, layout)
    return join([load_shards(where, split) for split in prepared_splits(where)])


def kept_at(prepared: Path, folder: Path, made_with: Sequence[str] = ()) -> Path:
    """Where a folder is kept once it is prepared; folders of one name in different places are different corpora.

    Args:
        made_with: what else decides what becomes of it.
    """
    decides = "\n".join((os.fspath(folder.resolve()), *made_with))
    return prepared / f"{folder.name}-{hashlib.sha256(decides.encode()).hexdigest()[:8]}"


def unfilmed_corpus(folder: Path, filmed: TalkingClips, prepared: Path, hook: Hook | None = None) -> TalkingClips:
    """Every speech file of a folder with a mouth made from its sound (`lipsep.data.corpora.sound_to_mouth`), as the
    filmed talkers move theirs: of other talkers it is another corpus."""
    path = Path(f"{kept_at(prepared, folder, filmed.names)}.npz")
    if path.is_file():
        return TalkingClips.load(path)
    sources = _files(folder, AUDIO_SUFFIXES, "speech files")
    networks = []
    for index in range(N_NETWORKS):
        network, explained = fit(filmed, seed=index)
        networks.append(network)
        if hook is not None:
            hook(f"mouths from sound explain {explained:.0%} of unseen clips' variance", index + 1, N_NETWORKS)

    def voices() -> Iterator[tuple[str, str, np.ndarray]]:
        for source in _counted(iter(sources), len(sources), "unfilmed", hook):
            yield source.stem, source.stem.split("-")[0], load_audio(source)

    corpus = pack(film(networks, voices(), filmed))
    corpus.save(path)
    return corpus


def noise_corpus(folder: Path, hook: Hook | None = None, split: str = "train") -> Sliced:
    """Noise to train with, or with "val" to validate with, end to end: (T,) int16. What `lipsep prepare` wrote has
    splits; of any other folder it is four fifths of every class for both, and the last fifth is kept for tests."""
    if is_prepared(folder):
        return load_noises(folder, split)
    sources = sorted(_files(folder, AUDIO_SUFFIXES, "noise files"))
    classes: dict[str, list[Path]] = {}
    for source in sources:
        classes.setdefault(source.stem.rpartition("_")[0], []).append(source)
    chosen = [source for members in classes.values() for source in members[: max(1, len(members) * 4 // 5)]]
    noises = [load_audio(source) for source in _counted(iter(chosen), len(chosen), "noise", hook)]
    return np.clip(np.round(np.concatenate(noises) * 32768), -32768, 32767).astype(np.int16)


def _files(folder: Path, suffixes: frozenset[str], what: str) -> list[Path]:
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder; the recipe needs {what} there")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not files:
        raise MediaError(f"{folder} holds no {what} ({', '.join(sorted(suffixes))})")
    return files


def _counted(items: Iterable, total: int, step: str, hook: Hook | None) -> Iterator:
    for completed, item in enumerate(items, start=1):
        yield item
        if hook is not None:
            hook(step, completed, total)
