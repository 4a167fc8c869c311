"""Where corpora keep their clips: one function per published layout, from a root folder to a list of sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from lipsep.data.names import Source, talker_of
from lipsep.errors import MediaError

VIDEO_SUFFIXES = frozenset({".mp4", ".mpg", ".mov", ".mkv", ".avi", ".webm", ".flv"})
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
SPLITS = ("train", "val", "test")
ALL = "all"  # the split of corpora that publish none


def find_sources(corpus: str, root: Path) -> list[Source]:
    """Every clip of a corpus in its published layout, in order of name.

    Args:
        corpus: one of `LAYOUTS`.

    Raises:
        MediaError: unknown corpus, or the folder does not look like it; the message says what was looked for.
    """
    if corpus not in LAYOUTS:
        raise MediaError(f"unknown corpus {corpus!r}: choose one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise MediaError(f"there is no folder '{root}', where clips of {corpus} are looked for")
    find, looks_like = LAYOUTS[corpus]
    sources: dict[str, Source] = {}
    for source in find(root):
        sources.setdefault(source.name, source)
    if not sources:
        raise MediaError(f"{root} does not look like {corpus}: no {looks_like} there")
    return [sources[name] for name in sorted(sources)]


def _folder(root: Path) -> Iterable[Source]:
    """``ann/1.mp4``, below ``train``, ``val`` and ``test`` where there are splits: clips in one folder show one talker,
    who is called as the folder is, unless their names begin with the talker's and ``_`` (``s26_bwaq8s.mpg``)."""
    for path in _videos(root):
        inside = path.relative_to(root)
        split = inside.parts[0] if len(inside.parts) > 1 and inside.parts[0] in SPLITS else ALL
        below = inside if split == ALL else inside.relative_to(split)
        talker = talker_of((root.absolute().name / below).as_posix())
        yield Source("_".join(inside.with_suffix("").parts), talker, split, path)


def _grid(root: Path) -> Iterable[Source]:
    """``s1/bbaf2n.mpg``, or deeper: ``s1/video/mpg_6000/bbaf2n.mpg``; of several sizes the first is taken. Or a folder
    of pictures, ``s1/bbaf2n/001.jpg``, with the sound in ``audio_25k/s1/bbaf2n.wav``.

    Zenodo's record 3625687 says that its videos are .jpg; people who list its archives find ``s1/bbaf2n.mpg``.
    """
    for path in _videos(root):
        if talker := _grid_talker(path, root):
            yield Source(f"{talker}_{path.stem}", talker, ALL, path)
    sounds = {(_grid_talker(path, root), path.stem): path for path in sorted(root.rglob("*.wav"))}
    for folder in sorted({path.parent for path in root.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES}):
        if talker := _grid_talker(folder, root):
            sound = sounds.get((talker, folder.name))
            missing = "" if sound else f"no sound of these pictures: audio_25k/{talker}/{folder.name}.wav is needed"
            yield Source(f"{talker}_{folder.name}", talker, ALL, folder, sound, missing)


def _grid_talker(path: Path, root: Path) -> str:
    """The first folder above a clip that is called s1, s2, ...; empty: there is none."""
    folders = path.relative_to(root).parts[:-1]
    return next((part for part in folders if part[:1] == "s" and part[1:].isdigit()), "")


def _lombard_grid(root: Path) -> Iterable[Source]:
    """``lombardgrid/front/s2_l_bbim3a.mov`` with its sound in ``lombardgrid/audio/s2_l_bbim3a.wav``, as unpacked from
    Zenodo's record 3736465. Its talkers are others than GRID's of the same number."""
    sounds = {path.stem: path for path in sorted(root.rglob("audio/*.wav"))}
    for path in _videos(root):
        if path.parent.name == "front":
            talker, sound = path.stem.partition("_")[0], sounds.get(path.stem)
            missing = "" if sound else f"no sound of this film: lombardgrid/audio/{path.stem}.wav is needed"
            yield Source(f"lombard_{path.stem}", f"lombard_{talker}", ALL, path, sound, missing)


def _crema_d(root: Path) -> Iterable[Source]:
    """``VideoFlash/1001_DFA_ANG_XX.flv``, with the sound in it. Numbers of actors are taken by LibriSpeech, too."""
    for path in _videos(root):
        if path.parent.name == "VideoFlash":
            yield Source(f"crema_{path.stem}", f"crema_{path.stem.partition('_')[0]}", ALL, path)


def _lrs2(root: Path) -> Iterable[Source]:
    """``mvlrs_v1/{main,pretrain}/VIDEO/00001.mp4`` and lists ``{pretrain,train,val,test}.txt``, beside or above."""
    base = root / "mvlrs_v1" if (root / "mvlrs_v1").is_dir() else root
    for split in ("pretrain", *SPLITS):
        lists = [folder / f"{split}.txt" for folder in (root, base) if (folder / f"{split}.txt").is_file()]
        for line in lists[0].read_text(encoding="utf-8").splitlines() if lists else ():
            if line.strip():
                clip = line.split()[0]  # the lists of the test set say more behind it
                path = base / ("pretrain" if split == "pretrain" else "main") / f"{clip}.mp4"
                missing = "" if path.is_file() else f"listed in {lists[0].name}, but there is no file"
                name = clip.replace("/", "_")
                yield Source(name if split != "pretrain" else f"pretrain_{name}", clip.split("/")[0], split, path,
                             missing=missing)  # fmt: skip


def _lrs3(root: Path) -> Iterable[Source]:
    """``{pretrain,trainval,test}/VIDEO/00001.mp4``."""
    for folder, split in (("trainval", "train"), ("test", "test"), ("pretrain", "pretrain")):
        for path in _videos(root / folder):
            name = f"{path.parent.name}_{path.stem}"
            yield Source(name if split != "pretrain" else f"pretrain_{name}", path.parent.name, split, path)


def _vox2(root: Path) -> Iterable[Source]:
    """``{dev,test}/mp4/id00012/VIDEO/00001.mp4`` with the sound in ``{dev,test}/aac/.../00001.m4a``, or in the mp4."""
    for folder, split in (("dev", "train"), ("test", "test")):
        for path in _videos(root / folder / "mp4"):
            clip = path.relative_to(root / folder / "mp4").with_suffix("")
            sound = root / folder / "aac" / clip.with_suffix(".m4a")
            yield Source("_".join(clip.parts), clip.parts[0], split, path, sound if sound.is_file() else None)


def _tcd_timit(root: Path) -> Iterable[Source]:
    """``{volunteers,lipspeakers}/01M/.../straightcam/sa1.mp4``, with ``sa1.wav`` beside it or the video's own sound."""
    for path in _videos(root):
        parts = path.relative_to(root).parts
        group = next((i for i, part in enumerate(parts[:-2]) if part in ("volunteers", "lipspeakers")), None)
        if group is not None and path.parent.name == "straightcam":
            beside = path.with_suffix(".wav")
            talker = parts[group + 1]
            yield Source(f"{talker}_{path.stem}", talker, ALL, path, beside if beside.is_file() else None)


def _ntcd_timit(root: Path) -> Iterable[Source]:
    """The videos of TCD-TIMIT with the sound of NTCD-TIMIT's ``clean/volunteers/01M/straightcam/sa1.wav``."""
    clean = {}
    for path in sorted(root.rglob("straightcam/*.wav")):
        if any(part.lower() == "clean" for part in path.relative_to(root).parts):
            clean[path.parent.parent.name, path.stem] = path
    for source in _tcd_timit(root):
        sound = clean.get((source.talker, source.video.stem))
        missing = "" if sound else "no clean sound of NTCD-TIMIT"
        yield Source(source.name, source.talker, source.split, source.video, sound, missing)


def _videos(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != ".")


LAYOUTS: dict[str, tuple[Callable[[Path], Iterable[Source]], str]] = {
    "folder": (_folder, "video clips"),
    "grid": (_grid, "s1/*.mpg or s1/*/*.jpg"),
    "lombard_grid": (_lombard_grid, "front/*.mov"),
    "crema_d": (_crema_d, "VideoFlash/*.flv"),
    "lrs2": (_lrs2, "lists train.txt, val.txt, test.txt, pretrain.txt of clips in mvlrs_v1/main and pretrain"),
    "lrs3": (_lrs3, "pretrain/*/*.mp4, trainval/*/*.mp4 or test/*/*.mp4"),
    "vox2": (_vox2, "dev/mp4/*/*/*.mp4 or test/mp4/*/*/*.mp4"),
    "tcd_timit": (_tcd_timit, "volunteers/*/straightcam/*.mp4"),
    "ntcd_timit": (_ntcd_timit, "volunteers/*/straightcam/*.mp4 with Clean/volunteers/*/straightcam/*.wav"),
}
