"""Turned faces and subtitles on real footage: python benchmarks/real_cases.py FOLDER_WITH_media [MODEL].

Every clip is separated as it is, and once more with a line of text on a dark band over everybody's chin. Printed per
person: how much of the time the face was found, how far it was turned away (the nose tip's distance to one outer eye
corner over that to the other: 1 from the front, towards 0 in profile), by how much the mouth's points moved under the
subtitles, in mouth widths, and how much the voice changed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from lipsep import Separator
from lipsep.faces.tracks import FaceTrack
from lipsep.lips.pose import MOUTH
from lipsep.media.reading import read_frames
from lipsep.media.writing import write_video
from lipsep.separator import DEFAULT_MODEL

TEXT = "AND THIS IS WHAT THEY SAID"
NOSE_TIP, EYE_CORNERS, LOWER_LIP, CHIN = 30, (36, 45), 57, 8


def main() -> None:
    model = sys.argv[2] if len(sys.argv) > 2 else DEFAULT_MODEL
    separator = Separator(model)
    print("| clip | person | found | with subtitles | turned: median | at most | mouth moved: median | voice changed |")
    print("|---|---|---|---|---|---|---|---|")
    for clip in sorted(Path(sys.argv[1]).glob("*.mp4")):
        with tempfile.TemporaryDirectory() as folder:
            plain = separator(clip)
            covered_clip = write_video(Path(folder) / "subtitled.mp4", subtitled(clip, plain.tracks), clip)
            covered = separator(covered_clip)
        if len(plain.tracks) != len(covered.tracks):
            print(f"| {clip.stem} | {len(plain.tracks)} people, with subtitles {len(covered.tracks)} |" + 6 * " |")
            continue
        for person in range(len(plain.tracks)):
            print(f"| {clip.stem} | {person + 1} | " + " | ".join(_row(plain, covered, person)) + " |", flush=True)


def subtitled(clip: Path, tracks: Sequence[FaceTrack]) -> Iterator[np.ndarray]:
    """The pictures with a line of text from below the lower lip to below the chin, where these mostly are."""
    bands = []
    for track in tracks:
        face = np.nanmedian(track.landmarks, axis=0)  # (68, 2)
        top = face[LOWER_LIP, 1] + 0.2 * (face[CHIN, 1] - face[LOWER_LIP, 1])
        bottom = face[CHIN, 1] + 0.2 * (face[CHIN, 1] - face[LOWER_LIP, 1])
        middle, half = face[CHIN, 0], np.ptp(face[:17, 0])
        bands.append([round(float(v)) for v in (middle - half, top, middle + half, bottom)])
    for frame in read_frames(clip):
        image = np.ascontiguousarray(frame.image).copy()
        for x0, y0, x1, y1 in bands:
            cv2.rectangle(image, (x0, y0), (x1, y1), (10, 10, 10), -1)
            (width, height), _ = cv2.getTextSize(TEXT, cv2.FONT_HERSHEY_DUPLEX, 1.0, 2)
            scale = min(0.6 * (y1 - y0) / height, 0.95 * (x1 - x0) / width)
            place = (x0 + 4, y1 - (y1 - y0) // 4)
            cv2.putText(image, TEXT, place, cv2.FONT_HERSHEY_DUPLEX, scale, (245, 245, 245), 2, cv2.LINE_AA)
        yield image


def _row(plain, covered, person: int) -> list[str]:
    before, after = plain.tracks[person], covered.tracks[person]
    left, right = (
        np.linalg.norm(before.landmarks[before.present][:, NOSE_TIP] - before.landmarks[before.present][:, k], axis=-1)
        for k in EYE_CORNERS
    )
    turned = np.minimum(left, right) / np.maximum(left, right)
    n_frames = min(len(before.present), len(after.present))
    both = before.present[:n_frames] & after.present[:n_frames]
    mouths = [track.landmarks[:n_frames][both][:, MOUTH] for track in (before, after)]
    width = np.linalg.norm(mouths[0][:, 0] - mouths[0][:, 6], axis=-1)
    moved = np.linalg.norm(mouths[1] - mouths[0], axis=-1).mean(1) / width
    n_samples = min(plain.voices.shape[1], covered.voices.shape[1])
    voice, other = (result.voices[person, :n_samples] for result in (plain, covered))
    change_db = 10 * np.log10(np.sum((voice - other) ** 2) / np.sum(voice**2))
    return [
        f"{before.present.mean():.1%}",
        f"{after.present.mean():.1%}",
        f"{np.median(turned):.2f}",
        f"{turned.min():.2f}",
        f"{np.median(moved):.2f}",
        f"{change_db:.1f} dB",
    ]


if __name__ == "__main__":
    main()
