"""A corpus in shards: prepared piece by piece, so that a run that was cut off goes on with the shard it was in.

``train-00000.npz``, ... hold the clips (`TalkingClips`), ``train-00000.json`` what was skipped of that shard and why.
``plan.json`` says what the shards are made of, and ``corpus.json``, written last, what became of all.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipsep.constants import FPS
from lipsep.data.clips import TalkingClip, TalkingClips, join, pack
from lipsep.data.filming import Hook, film_talker
from lipsep.data.layouts import Source, find_sources
from lipsep.errors import FaceError, MediaError, OutputError
from lipsep.outputs import writing_to

PLAN, SUMMARY = "plan.json", "corpus.json"


def prepare_shards(
    corpus: str, root: Path, out: Path, clips_per_shard: int = 100, processes: int = 1, hook: Hook | None = None
) -> dict[str, Any]:
    """Find the mouths of every clip of a corpus; shards that an earlier run has finished are left as they are.

    Returns:
        What is also in ``corpus.json``: ``clips``, ``talkers`` and ``hours`` per split, and ``skipped``: clips and why.

    Raises:
        MediaError: `root` does not hold such a corpus. OutputError: `out` holds shards of other clips, or cannot be
        written to.
    """
    sources = find_sources(corpus, root)
    shards = _shards(sources, clips_per_shard)
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        _agree(out, corpus, sources, clips_per_shard)
        completed = 0
        for stem, members in shards.items():
            if not (out / f"{stem}.npz").is_file():
                _fill(out / stem, members, processes, hook, completed, len(sources))
            completed += len(members)
        summary = {"corpus": corpus, **_summarise(out, shards)}
        _write(out / SUMMARY, summary)
    return summary


def is_prepared(folder: Path) -> bool:
    """Whether `prepare_shards` has finished this folder."""
    return (folder / SUMMARY).is_file()


def prepared_splits(folder: Path) -> list[str]:
    """Splits of a prepared corpus."""
    return list(json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["splits"])


def load_shards(folder: Path, split: str) -> TalkingClips:
    """All clips of a split in memory: 129 MB for each hour.

    Raises:
        MediaError: the folder is not prepared, or has no such split.
    """
    if not is_prepared(folder):
        raise MediaError(
            f"{folder} holds no prepared corpus: `lipsep prepare CORPUS ROOT -o {folder}` makes or ends it"
        )
    if split not in prepared_splits(folder):
        raise MediaError(f"{folder} has no split {split}; it has {', '.join(prepared_splits(folder))}")
    return join([TalkingClips.load(path) for path in sorted(folder.glob(f"{split}-?????.npz"))])


def _shards(sources: list[Source], clips_per_shard: int) -> dict[str, list[Source]]:
    """Sources of each shard, by the shard's name."""
    shards: dict[str, list[Source]] = {}
    for split in sorted({source.split for source in sources}):
        members = [source for source in sources if source.split == split]
        for number, start in enumerate(range(0, len(members), clips_per_shard)):
            shards[f"{split}-{number:05d}"] = members[start : start + clips_per_shard]
    return shards


def _agree(out: Path, corpus: str, sources: list[Source], clips_per_shard: int) -> None:
    names = hashlib.sha256("\n".join(f"{source.split}/{source.name}" for source in sources).encode()).hexdigest()
    plan = {"corpus": corpus, "clips_per_shard": clips_per_shard, "n_clips": len(sources), "names_sha256": names}
    if not (out / PLAN).is_file():
        _write(out / PLAN, plan)
        return
    begun = json.loads((out / PLAN).read_text(encoding="utf-8"))
    if begun != plan:
        raise OutputError(
            f"'{out}' holds {begun['n_clips']} clips of {begun['corpus']}, {begun['clips_per_shard']} a shard, and now "
            f"there are {len(sources)} of {corpus}, {clips_per_shard} a shard: choose another folder with -o"
        )


def _fill(path: Path, members: list[Source], processes: int, hook: Hook | None, completed: int, total: int) -> None:
    """Write one shard, what was skipped first."""
    clips, skipped = [], []
    for source, clip in zip(members, _film_all(members, processes), strict=True):
        if isinstance(clip, str):
            skipped.append({"clip": source.name, "reason": clip})
        else:
            clips.append(clip)
        completed += 1
        if hook is not None:
            hook("filmed", completed, total)
    _write(path.with_suffix(".json"), skipped)
    pack(clips).save(path.with_suffix(".npz"))


def _film_all(members: list[Source], processes: int) -> Iterator[TalkingClip | str]:
    if processes == 1:
        yield from map(_film, members)
        return
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        yield from workers.map(_film, members)


def _film(source: Source) -> TalkingClip | str:
    """A clip, or why there is none."""
    if source.missing:
        return source.missing
    try:
        return film_talker(source.video, source.name, source.talker, source.sound)
    except (FaceError, MediaError) as error:
        return str(error)


def _summarise(out: Path, shards: dict[str, list[Source]]) -> dict[str, Any]:
    splits: dict[str, dict[str, Any]] = {}
    skipped = []
    talkers: dict[str, set[str]] = {}
    n_frames: Counter[str] = Counter()
    n_clips: Counter[str] = Counter()
    for stem in shards:
        split = stem.rpartition("-")[0]
        with np.load(out / f"{stem}.npz", allow_pickle=False) as stored:
            talkers.setdefault(split, set()).update(stored["talkers"].tolist())
            n_frames[split] += int(stored["n_frames"].sum())
            n_clips[split] += len(stored["names"])
        skipped += json.loads((out / f"{stem}.json").read_text(encoding="utf-8"))
    for split in talkers:
        hours = round(n_frames[split] / FPS / 3600, 4)
        splits[split] = {"clips": n_clips[split], "talkers": len(talkers[split]), "hours": hours}
    return {"splits": splits, "skipped": skipped}


def _write(path: Path, what: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(what, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
