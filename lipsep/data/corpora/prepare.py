"""Corpora on disk -> packed clips, once; a second call finds the result and returns at once.

Filmed corpora: any folder of short video clips with one talker in each picture (GRID: one folder, names as published).
Unfilmed corpora: any folder of speech files (LibriSpeech: ``speaker-chapter-utterance``).
Noise: any folder of sound files (ESC: ``class_number``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from lipsep.constants import Hook
from lipsep.data.clips.clips import TalkingClip, TalkingClips, join, pack
from lipsep.data.clips.stored import Sliced
from lipsep.data.corpora.filming import film_talker
from lipsep.data.corpora.layouts import VIDEO_SUFFIXES
from lipsep.data.corpora.shards import is_prepared, load_noises, load_shards, prepared_splits
from lipsep.data.corpora.sound_to_mouth import N_NETWORKS, film, fit
from lipsep.errors import FaceError, MediaError
from lipsep.media.reading import load_audio

AUDIO_SUFFIXES = frozenset({".opus", ".flac", ".wav", ".ogg", ".mp3", ".m4a"})


def filmed_corpus(folder: Path, prepared: Path, hook: Hook | None = None) -> TalkingClips:
    """Every clip of a folder with its talker's mouth, prepared once into a file of `kept_at`; or all of what `lipsep
    prepare` wrote there.

    A clip in which no face is found in at least 90 % of the frames is left out and counted.

    Raises:
        MediaError: the folder is missing or holds no usable clip.
    """
    if is_prepared(folder):
        return join([load_shards(folder, split) for split in prepared_splits(folder)])
    path = kept_at(prepared, folder)
    if path.is_file():
        return TalkingClips.load(path)
    sources = _files(folder, VIDEO_SUFFIXES, "video clips")
    with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as workers:
        clips = [
            clip
            for clip in _counted(workers.map(film_clip, sources, chunksize=4), len(sources), "filmed", hook)
            if clip
        ]
    if not clips:
        raise MediaError(f"{folder}: {len(sources)} clips, none with a face in 90 % of its frames")
    corpus = pack(clips)
    corpus.save(path)
    return corpus


def kept_at(prepared: Path, folder: Path) -> Path:
    """Where a folder is kept once it is prepared; folders of one name in different places are different corpora."""
    where = hashlib.sha256(os.fspath(folder.resolve()).encode()).hexdigest()[:8]
    return prepared / f"{folder.name}-{where}.npz"


def film_clip(source: Path) -> TalkingClip | None:
    """One clip with one talker; None where no face is present in at least 90 % of the frames."""
    try:
        return film_talker(source, source.stem, source.stem.split("_")[0] if "_" in source.stem else "")
    except FaceError:
        return None


def unfilmed_corpus(folder: Path, filmed: TalkingClips, prepared: Path, hook: Hook | None = None) -> TalkingClips:
    """Every speech file of a folder with a mouth made from its sound (`lipsep.data.corpora.sound_to_mouth`)."""
    path = kept_at(prepared, folder)
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
