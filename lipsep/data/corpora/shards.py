"""A corpus in shards: prepared piece by piece, so that a run that was cut off goes on with the shard it was in.

``train-00000.npz``, ... hold the clips (`TalkingClips`), with ``train-00000.pictures.npy`` beside them where mouths are
kept as pictures too; of noise, ``train-00000.sounds.npy`` holds the sound (`lipsep.data.corpora.noises`).
``train-00000.json`` tells what was skipped of that shard and why. ``plan.json`` says what the shards are made of, and
``corpus.json``, written last, what became of all.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipsep.constants import FPS, Hook
from lipsep.data.clips.clips import TalkingClip, TalkingClips, join, pack
from lipsep.data.clips.stored import EndToEnd, StoredArray
from lipsep.data.corpora.filming import film_talker
from lipsep.data.corpora.layouts import LAYOUTS, find_sources
from lipsep.data.corpora.noises import NOISE_LAYOUTS, NoiseSource, find_noises, save_noises
from lipsep.data.names import Source
from lipsep.errors import FaceError, MediaError, OutputError
from lipsep.system.cluster import on_ray
from lipsep.system.outputs import PARTIAL, whole_file, writing_to

PLAN, SUMMARY = "plan.json", "corpus.json"
AnySource = Source | NoiseSource
Make = Callable[[Any], "TalkingClip | np.ndarray | str"]  # from a source to what is kept of it, or why nothing is


def prepare_shards(
    corpus: str,
    root: Path,
    out: Path,
    clips_per_shard: int = 100,
    processes: int | None = None,
    hook: Hook | None = None,
    with_pictures: bool = False,
    ray: str | None = None,
) -> dict[str, Any]:
    """Find the mouths of every clip of a corpus, or read every sound of a noise corpus; shards that an earlier run has
    finished are left as they are.

    Args:
        processes: default 1, or with `ray` one per core of its machines.
        with_pictures: keep the mouths' pictures too, not their points alone.
        ray: address of a cluster that sees the same files, see `system.cluster.on_ray`; each of its processes makes
            whole shards. None: the processes of this machine share each shard.

    Returns:
        What is also in ``corpus.json``: ``clips``, ``talkers`` and ``hours`` per split, and ``skipped``: clips and why.

    Raises:
        MediaError: `root` does not hold such a corpus. OutputError: `out` holds shards of other clips, or cannot be
        written to.
    """
    if corpus not in (*LAYOUTS, *NOISE_LAYOUTS):
        raise MediaError(f"unknown corpus {corpus!r}: choose one of {', '.join((*LAYOUTS, *NOISE_LAYOUTS))}")
    of_noise = corpus in NOISE_LAYOUTS
    sources = (find_noises if of_noise else find_sources)(corpus, root.absolute())
    make = _listen if of_noise else partial(_film, with_pictures=with_pictures)
    shards = _shards(sources, clips_per_shard)
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        _agree(out, corpus, sources, clips_per_shard, with_pictures)
        lacking = {stem: members for stem, members in shards.items() if not (out / f"{stem}.npz").is_file()}
        completed = len(sources) - sum(map(len, lacking.values()))
        if ray is None:
            for stem, members in lacking.items():
                _fill(out / stem, members, make, processes or 1, hook, completed, len(sources))
                completed += len(members)
        elif lacking:
            filling = partial(_filling, out.absolute(), make)
            for (_, members), _ in on_ray(ray, list(lacking.items()), filling, n_actors=processes):
                completed += len(members)
                if hook is not None:
                    hook("prepared", completed, len(sources))
        for left in out.glob(f".*{PARTIAL}.*"):  # by processes that were killed
            left.unlink(missing_ok=True)
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
    """All clips of a split, which stay on disk.

    Raises:
        MediaError: the folder is not prepared, or has no such split.
    """
    return join([TalkingClips.load(path) for path in _of_split(folder, split, ".npz")])


def load_noises(folder: Path, split: str) -> EndToEnd:
    """The noise of a split, which stays on disk.

    Raises:
        MediaError: the folder is not prepared, or has no such noise.
    """
    if not (shards := _of_split(folder, split, ".sounds.npy")):
        raise MediaError(f"{folder} holds voices, no noise: noise corpora are {', '.join(NOISE_LAYOUTS)}")
    return EndToEnd([StoredArray.open(path) for path in shards])


def _of_split(folder: Path, split: str, suffix: str) -> list[Path]:
    """Its files with this ending, in order."""
    if not is_prepared(folder):
        raise MediaError(
            f"{folder} holds no prepared corpus: `lipsep prepare CORPUS ROOT -o {folder}` makes or ends it"
        )
    if split not in prepared_splits(folder):
        raise MediaError(f"{folder} has no split {split}; it has {', '.join(prepared_splits(folder))}")
    return sorted(folder.glob(f"{split}-?????{suffix}"))


def _shards(sources: list[AnySource], clips_per_shard: int) -> dict[str, list[AnySource]]:
    """Sources of each shard, by the shard's name."""
    shards: dict[str, list[AnySource]] = {}
    for split in sorted({source.split for source in sources}):
        members = [source for source in sources if source.split == split]
        for number, start in enumerate(range(0, len(members), clips_per_shard)):
            shards[f"{split}-{number:05d}"] = members[start : start + clips_per_shard]
    return shards


def _agree(out: Path, corpus: str, sources: list[AnySource], clips_per_shard: int, with_pictures: bool) -> None:
    names = hashlib.sha256("\n".join(f"{source.split}/{source.name}" for source in sources).encode()).hexdigest()
    plan = {
        "corpus": corpus,
        "clips_per_shard": clips_per_shard,
        "pictures": with_pictures,
        "n_clips": len(sources),
        "names_sha256": names,
    }
    if not (out / PLAN).is_file():
        _write(out / PLAN, plan)
        return
    begun = json.loads((out / PLAN).read_text(encoding="utf-8"))
    if begun != plan:
        raise OutputError(
            f"'{out}' holds {_told(begun)}, and now there are {_told(plan)}: choose another folder with -o, or "
            "remove this one"
        )


def _told(plan: dict[str, Any]) -> str:
    pictures = " with pictures" if plan.get("pictures") else ""
    return f"{plan['n_clips']} clips of {plan['corpus']}{pictures}, {plan['clips_per_shard']} a shard"


def _filling(out: Path, make: Make) -> Callable[[tuple[str, list[AnySource]]], None]:
    """What a process on a cluster does with a shard: all of it, alone."""
    torch.set_num_threads(1)

    def fill(shard: tuple[str, list[AnySource]]) -> None:
        with writing_to(out):
            _fill(out / shard[0], shard[1], make, 1, None, 0, len(shard[1]))

    return fill


def _fill(
    path: Path,
    members: list[AnySource],
    make: Make,
    processes: int,
    hook: Hook | None,
    completed: int,
    total: int,
) -> None:
    """Write one shard, what was skipped first."""
    kept, skipped = [], []
    for source, made in zip(members, _make_all(members, make, processes), strict=True):
        if isinstance(made, str):
            skipped.append({"clip": source.name, "reason": made})
        else:
            kept.append((source, made))
        completed += 1
        if hook is not None:
            hook("prepared", completed, total)
    _write(path.with_suffix(".json"), skipped)
    if make is _listen:
        save_noises(path.with_suffix(".npz"), [source for source, _ in kept], [sound for _, sound in kept])
    else:
        pack(clip for _, clip in kept).save(path.with_suffix(".npz"))


def _make_all(members: list[AnySource], make: Make, processes: int) -> Iterator[TalkingClip | np.ndarray | str]:
    if processes == 1:
        yield from map(make, members)
        return
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        yield from workers.map(make, members)


def _film(source: Source, with_pictures: bool) -> TalkingClip | str:
    """A clip, or why there is none."""
    if source.missing:
        return source.missing
    try:
        return film_talker(source.video, source.name, source.talker, source.sound, with_pictures)
    except (FaceError, MediaError) as error:
        return str(error)


def _listen(source: NoiseSource) -> np.ndarray | str:
    """A sound (T,) int16, or why there is none."""
    try:
        return source.read()
    except MediaError as error:
        return str(error)


def _summarise(out: Path, shards: dict[str, list[AnySource]]) -> dict[str, Any]:
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
    with whole_file(path) as part:
        part.write_text(json.dumps(what, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
