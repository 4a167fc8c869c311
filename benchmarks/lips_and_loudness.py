"""How much the opening of the lips alone tells whose voice it is, without anything learned.

    python benchmarks/lips_and_loudness.py FOLDER_WITH_CLIPS [--pattern 's[wr]*'] [--clips 40]

Each clip shows one talker. The opening of the lips and the loudness of the clean voice, both freed of slow changes
(lips.sync), are correlated for every pair of clips with both voices. "Each": either mouth correlates better with its
own voice than with the other. "Together": of the two ways to hand out the voices, the right one has the larger sum.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np

from lipsep.constants import FPS
from lipsep.data.corpora.filming import film_talker
from lipsep.errors import LipsepError
from lipsep.lips.sync import RATE, envelope, lip_opening, without_slow_changes


def curves(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """Opening and loudness, RATE times a second."""
    clip = film_talker(video, video.stem, "")
    loudness = envelope(lambda start, stop: clip.voice[start:stop], len(clip.voice))
    times_s = np.arange(len(loudness)) / RATE
    opening = np.interp(times_s, np.arange(clip.n_frames) / FPS, lip_opening(clip.mouth))
    return without_slow_changes(opening), without_slow_changes(loudness)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pattern", default="*")
    parser.add_argument("--clips", type=int, default=40, help="so many, evenly spread over the folder")
    args = parser.parse_args()
    found = sorted(args.folder.glob(args.pattern))
    talkers = []
    for video in found[:: max(1, len(found) // args.clips)][: args.clips]:
        try:
            talkers.append(curves(video))
        except LipsepError as error:
            print(f"left out: {video.name}: {error}")
    fits = np.array([[np.corrcoef(opening, loudness)[0, 1] for _, loudness in talkers] for opening, _ in talkers])
    pairs = np.array(list(combinations(range(len(talkers)), 2)))
    first, second = pairs.T
    own, others = (fits[first, first], fits[second, second]), (fits[first, second], fits[second, first])
    each = (own[0] > others[0]) & (own[1] > others[1])
    together = own[0] + own[1] > others[0] + others[1]
    print(f"{len(talkers)} clips, {len(pairs)} pairs: correlation with the own voice {np.diag(fits).mean():.2f}, with")
    print(f"another {np.mean(others):.2f}; right each {each.mean():.1%}, right together {together.mean():.1%}")


if __name__ == "__main__":
    main()
