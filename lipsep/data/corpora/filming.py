"""One clip with one talker -> a voice, a mouth and a face, with the product's own face pipeline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from lipsep.constants import FPS
from lipsep.data.clips.clips import TalkingClip
from lipsep.errors import FaceError, MediaError
from lipsep.faces.tracks import find_faces
from lipsep.lips.reading import crop_mouth
from lipsep.lips.shape import normalise_mouth
from lipsep.media.reading import Frame, load_audio, read_frames

PRESENT = 0.9  # share of its frames that must show the talker's face


def film_talker(
    video: Path, name: str, talker: str, sound: Path | None = None, with_pictures: bool = False
) -> TalkingClip:
    """One clip with one talker, from its video, or with its sound from a file beside it.

    Args:
        video: a file, or a folder of pictures as `read_pictures` takes it.
        with_pictures: cut the mouth out of every frame too, and keep a picture of the face; the video is read twice.

    Raises:
        MediaError: a file cannot be read. FaceError: no face is present in at least 90 % of the frames.
    """
    read = read_pictures if video.is_dir() else read_frames
    tracks = find_faces(read(video), speakers=1)
    share = tracks[0].present.mean() if tracks else 0.0
    if share < PRESENT:
        raise FaceError(f"a face is visible in {share:.0%} of the frames; {PRESENT:.0%} are needed")
    mouth = normalise_mouth(tracks[0].landmarks, tracks[0].present)  # (F, 20, 2)
    pictures = crop_mouth(tracks[0], read(video, grey=True)) if with_pictures else None  # (F, 96, 96)
    face = tracks[0].thumbnail[None] if with_pictures else None  # (1, 192, 192, 3)
    return TalkingClip(name, talker, load_audio(sound or video), mouth, pictures, face)


def read_pictures(folder: Path, *, grey: bool = False) -> Iterator[Frame]:
    """A film that is kept as one picture file for each 25th of a second, in order of the last number in their names.

    Raises (at the first `next`, or on the way):
        MediaError: there are none, one is missing in the row or cannot be read, or their sizes differ.
    """
    numbers = {path: re.findall(r"\d+", path.stem) for path in folder.iterdir() if path.name[0] != "."}
    paths = sorted((path for path, found in numbers.items() if found), key=lambda path: int(numbers[path][-1]))
    if not paths:
        raise MediaError(f"'{folder}' has no pictures with numbers in their names")
    for before, after in pairwise(paths):
        if int(numbers[after][-1]) - int(numbers[before][-1]) != 1:
            raise MediaError(f"'{folder}': the pictures between '{before.name}' and '{after.name}' are not one by one")
    size = None
    for index, path in enumerate(paths):
        image = next(read_frames(path, grey=grey)).image
        if size is not None and image.shape != size:
            raise MediaError(f"'{path}' has another size than the pictures before it")
        size = image.shape
        yield Frame(index, index / FPS, image)
