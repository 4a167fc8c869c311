"""How well the offset between lips and sound is found: python benchmarks/lip_sync.py FOLDER_OF_CLIPS [PREPARED].

FOLDER_OF_CLIPS holds clips with one talker each (GRID). Files of several lengths are made of them, of one talker and of
two at once; of every clip only the spoken middle is kept. The sound is shifted by -200 to 200 ms, or not at all, or
belongs to other lips. Printed are the estimates of which CONFIDENT says that they are to be believed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from lipsep.constants import FPS, SAMPLES_PER_FRAME
from lipsep.data.clips.clips import TalkingClips
from lipsep.data.corpora.prepare import filmed_corpus
from lipsep.lips.sync import CONFIDENT, SEARCH_MS, Offset, envelope, lip_opening, offset_of

N_FILES = 200
SPOKEN = slice(14, 62)  # frames of GRID's 75; the rest is mostly silence, which would make it easier
RIGHT_MS = 40.0
SHIFT_MS = 200


def main() -> None:
    prepared = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("data/prepared")
    corpus = filmed_corpus(Path(sys.argv[1]), prepared)
    print(
        f"{len(corpus)} clips; {N_FILES} files a row; right: within {RIGHT_MS:g} ms; confident: from {CONFIDENT:g} on"
    )
    print("| people | s | sound | confident | of these right | median error ms | corrected |")
    print("|---|---|---|---|---|---|---|")
    for n_people in (1, 2):
        for n_clips in (2, 3, 5, 10, 20):
            for kind in ("shifted", "in sync", "of other lips"):
                rng = np.random.default_rng((n_people, n_clips))
                print(_row(corpus, n_people, n_clips, kind, rng), flush=True)


def _row(corpus: TalkingClips, n_people: int, n_clips: int, kind: str, rng: np.random.Generator) -> str:
    found, errors_ms = [], []
    for _ in range(N_FILES):
        shift_ms = int(rng.integers(-SHIFT_MS // 10, SHIFT_MS // 10 + 1)) * 10 if kind == "shifted" else 0
        offset = _file(corpus, n_people, n_clips, shift_ms, kind == "of other lips", rng)
        found.append(offset)
        errors_ms.append(np.inf if offset.found_ms is None else abs(offset.found_ms - shift_ms))
    sure = np.array([offset.confidence >= CONFIDENT for offset in found])
    right = np.array(errors_ms) <= RIGHT_MS
    corrected = np.mean([offset.corrected_ms != 0 for offset in found])
    share = f"{right[sure].mean():.1%}" if sure.any() and kind != "of other lips" else "-"
    error = f"{np.median(np.array(errors_ms)[sure]):.0f}" if sure.any() and kind != "of other lips" else "-"
    seconds = n_clips * (SPOKEN.stop - SPOKEN.start) / FPS
    return f"| {n_people} | {seconds:.0f} | {kind} | {sure.mean():.1%} | {share} | {error} | {corrected:.1%} |"


def _file(
    corpus: TalkingClips, n_people: int, n_clips: int, shift_ms: int, foreign: bool, rng: np.random.Generator
) -> Offset:
    """One file: clips after one another, people at once, the sound later by `shift_ms`."""
    n_frames = n_clips * (SPOKEN.stop - SPOKEN.start)
    mixture, openings = np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32), []
    for _ in range(n_people):
        seen = rng.choice(len(corpus), n_clips, replace=False)
        heard = rng.choice(len(corpus), n_clips, replace=False) if foreign else seen
        openings.append(lip_opening(np.concatenate([corpus[int(k)].mouth[SPOKEN] for k in seen])))
        mixture += np.concatenate([corpus[int(k)].part(SPOKEN.start, SPOKEN.stop).voice for k in heard])
        if foreign:
            mixture = np.roll(mixture, int(rng.integers(len(mixture))))
    loudness = envelope(lambda start, stop: mixture[start:stop], len(mixture))
    shifted = np.roll(loudness, shift_ms // 10)  # SEARCH_MS of the ends come from elsewhere, of many seconds
    assert SHIFT_MS < SEARCH_MS
    return offset_of(openings, [np.ones(n_frames, bool)] * n_people, shifted)


if __name__ == "__main__":
    main()
