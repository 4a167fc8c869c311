"""Which files are meant by what was named, and where the results of each go."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lipsep.errors import MediaError, OutputError
from lipsep.system.outputs import REPORT, finished_report

_VIDEO_NAME = re.compile(
    r"[^.].*\.(3g2|3gp|asf|avi|divx|dv|f4v|flv|m2t|m2ts|m4v|mkv|mov|mp4|mpe|mpeg|mpg|mts|mxf|ogm|ogv|qt|rm|rmvb|ts|vob|"
    r"webm|wmv)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Task:
    """One file, and the folder of its results."""

    source: Path
    out: Path


def find_tasks(inputs: Iterable[Path], out: Path, recursive: bool = False) -> list[Task]:
    """Files as they are named; of folders every video in them, in order of name.

    Results of FOLDER/a/b.mp4 go to OUT/a/b/, or to OUT/a/b.mp4/ where a/b.mov is there too. Hidden files, files that
    are no videos by their name, and what an earlier run has written are passed over.

    Raises:
        MediaError: a folder holds no video. OutputError: two inputs would share a folder of results.
    """
    tasks: list[Task] = []
    for given in _expanded(inputs):
        if not given.is_dir():
            tasks.append(Task(given, out / given.stem))
            continue
        videos = sorted(_videos(given, out, recursive))
        if not videos:
            below = "" if recursive else " itself: with --recursive its folders are searched too"
            raise MediaError(f"there is no video in '{given}'{below}")
        n_alike = Counter(_key(video.with_suffix("")) for video in videos)
        for video in videos:
            alone = n_alike[_key(video.with_suffix(""))] == 1
            place = video.relative_to(given)
            tasks.append(Task(video, out / (place.with_suffix("") if alone else place)))
    twice = [key for key, n in Counter(_key(task.out) for task in tasks).items() if n > 1]
    if twice:
        raise OutputError(f"two inputs would both write to '{min(twice)}': separate them with different -o")
    return tasks


def find_file(given: Path) -> Path:
    """The one file, or folder, that is named.

    Raises:
        MediaError: as for several; also if a wildcard fits more than one.
    """
    first, *others = _expanded([given])
    if others:
        raise MediaError(f"'{given}' fits {1 + len(others)} files, '{first.name}' first: name one")
    return first


def _expanded(inputs: Iterable[Path]) -> Iterator[Path]:
    """What was named, with wildcards that the shell left alone (Windows, quotes) replaced by the files that they mean.

    Raises:
        MediaError: a wildcard fits nothing; standard input and addresses cannot be read again and again.
    """
    for given in inputs:
        text = str(given)
        if text == "-":
            raise MediaError("standard input cannot be read: save the video to a file and name that")
        if re.match(r"[a-z][a-z0-9+.-]+:/", text, re.IGNORECASE) and not given.exists():
            text = text.replace(":/", "://", 1)  # as it was before it was taken for a path
            raise MediaError(f"'{text}' is an address: download the video first and name the file")
        if given.exists() or not glob.has_magic(text):
            yield given
            continue
        found = sorted(glob.glob(text))
        if not found:
            raise MediaError(f"no file fits '{text}': check the folder and the pattern")
        yield from map(Path, found)


def _key(path: Path) -> str:
    """Some file systems take Ab and aB for one."""
    return str(path).casefold()


def _videos(folder: Path, out: Path, recursive: bool) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        if REPORT in files and _is_result(here):
            folders.clear()
            continue
        folders[:] = [f for f in folders if recursive and not f.startswith(".") and not _same(here / f, out)]
        for name in files:
            if _VIDEO_NAME.fullmatch(name):
                yield here / name


def _is_result(folder: Path) -> bool:
    try:
        return finished_report(folder) is not None
    except OutputError:  # another program's report.json
        return False


def _same(folder: Path, out: Path) -> bool:
    return out.exists() and folder.samefile(out)
