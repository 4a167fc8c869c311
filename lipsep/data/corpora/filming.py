"""One clip with one talker -> a voice, a mouth and a face, with the product's own face pipeline."""

from __future__ import annotations

from pathlib import Path

from lipsep.data.clips.clips import TalkingClip
from lipsep.errors import FaceError
from lipsep.faces.tracks import find_faces
from lipsep.lips.reading import crop_mouth
from lipsep.lips.shape import normalise_mouth
from lipsep.media.reading import load_audio, read_frames

PRESENT = 0.9  # share of its frames that must show the talker's face


def film_talker(
    video: Path, name: str, talker: str, sound: Path | None = None, with_pictures: bool = False
) -> TalkingClip:
    """One clip with one talker, from its video, or with its sound from a file beside it.

    Args:
        with_pictures: cut the mouth out of every frame too, and keep a picture of the face; the video is read twice.

    Raises:
        MediaError: a file cannot be read. FaceError: no face is present in at least 90 % of the frames.
    """
    tracks = find_faces(read_frames(video), speakers=1)
    share = tracks[0].present.mean() if tracks else 0.0
    if share < PRESENT:
        raise FaceError(f"a face is visible in {share:.0%} of the frames; {PRESENT:.0%} are needed")
    mouth = normalise_mouth(tracks[0].landmarks, tracks[0].present)  # (F, 20, 2)
    pictures = crop_mouth(tracks[0], read_frames(video, grey=True)) if with_pictures else None  # (F, 96, 96)
    face = tracks[0].thumbnail[None] if with_pictures else None  # (1, 192, 192, 3)
    return TalkingClip(name, talker, load_audio(sound or video), mouth, pictures, face)
