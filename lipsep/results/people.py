"""Who is there: found in a clip, chosen, put together where one person became two tracks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from lipsep.constants import FPS
from lipsep.errors import FaceError, OptionError
from lipsep.faces.tracks import FaceTrack, find_faces
from lipsep.faces.turns import N_LOOKS, turn_that_shows_faces
from lipsep.results.run import Run


def find_people(run: Run, n_seen: int, folder: Path) -> list[FaceTrack]:
    """Everyone in the first `n_seen` frames; where nobody is, the pictures are looked at the other ways up.

    Raises:
        FaceError: nobody is visible, or for long enough.
    """
    clip, options = run.clip, run.options
    clip.turn = 0 if options.rotate == "auto" else -int(options.rotate) % 360

    def find() -> list[FaceTrack]:
        return find_faces(
            run.counted("faces", islice(clip.frames(), n_seen), n_seen),
            n_frames=n_seen,
            speakers=options.speakers,
            detect_every_n=options.detect_every_n,
            face_scale=options.face_scale,
            min_visible_s=options.min_visible_s,
            folder=folder,
        )

    tracks = find()
    if not tracks and options.rotate == "auto":
        some = islice(clip.frames(), 0, n_seen, max(1, n_seen // N_LOOKS))
        clip.turn = turn_that_shows_faces(frame.image for frame in some)
        if clip.turn:
            clockwise = 360 - clip.turn
            run.warn(f"nobody is seen the way the pictures are stored: they are turned by {clockwise} degrees")
            tracks = find()
    if not tracks:
        raise FaceError(_nobody(run))
    for track in tracks:
        if not track.lips_move:
            run.warn(f"the lips of person {track.person} hardly move: silent, or a picture on the wall")
    return chosen_people(tracks, options.people)


def chosen_people(tracks: Sequence[FaceTrack], wanted: Sequence[str]) -> list[FaceTrack]:
    """The people named, such as ("1", "3+4"): 3 and 4 are one person, who is 3 from then on. None named: all.

    Raises:
        OptionError: there is no such person, or somebody is named twice.
    """
    if not wanted:
        return list(tracks)
    by_number = {track.person: track for track in tracks}
    groups = [[int(number) for number in word.split("+")] for word in wanted]
    named = [number for group in groups for number in group]
    if strangers := set(named) - by_number.keys():
        numbers = ", ".join(map(str, by_number))
        raise OptionError(f"there is no person {min(strangers)}: there are {numbers}; 'lipsep people' shows them")
    if len(set(named)) < len(named):
        raise OptionError(f"people {','.join(wanted)} names somebody twice")
    return [_together([by_number[number] for number in group]) for group in groups]


def _together(tracks: list[FaceTrack]) -> FaceTrack:
    """One track of several; where two are there at once, the one named first counts."""
    first, *others = tracks
    if not others:
        return first
    present, boxes = first.present.copy(), first.boxes.copy()
    landmarks = np.array(first.landmarks)
    for other in others:
        new = other.present & ~present
        boxes[new], landmarks[new] = other.boxes[new], other.landmarks[new]
        present |= other.present
    return FaceTrack(first.person, present, boxes, landmarks, first.thumbnail)


def _nobody(run: Run) -> str:
    seconds = run.n_looked_at / FPS
    scale = run.options.face_scale
    return (
        f"no face in {run.n_looked_at} frames ({seconds:.1f} s) of '{run.clip.name}': somebody must be visible for at "
        f"least {run.options.min_visible_s:g} s; if the faces are small, try --face-scale {2 * scale:g}"
    )
