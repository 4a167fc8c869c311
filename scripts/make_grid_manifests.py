"""Draw the fixed test mixtures of GRID that small weights are judged on.

    python scripts/make_grid_manifests.py FOLDER_WITH_grid_s1_grid_singles_AND_grid_unseen recipes/laptop

Writes ``unseen_sentences.csv`` (200 mixtures of the 128 sentences of talker s1 that training never hears) and
``unseen_talkers.csv`` (400 mixtures of talkers s26 and s31, whom training never sees: 200 of two different talkers,
100 of each talker against himself), and ``strangers.csv`` (40 mixtures of two different talkers out of five, of whom
one sentence each is there: for choosing between networks; the unseen talkers are looked at once, at the end).
"""

from __future__ import annotations

import sys
from itertools import combinations, product
from pathlib import Path

from lipsep.data.mixtures.manifest import draw_mixtures, write_manifest


def main(root: Path, out: Path) -> None:
    sentences = sorted(f"grid_s1/{path.name}" for path in (root / "grid_s1").glob("s[rw]*.mp4"))
    write_manifest(
        out / "unseen_sentences.csv", draw_mixtures(list(combinations(sentences, 2)), 200, 5.0, "s1-s1", seed=1)
    )
    singles = sorted(f"grid_singles/{path.name}" for path in (root / "grid_singles").glob("*.mpg"))
    write_manifest(out / "strangers.csv", draw_mixtures(list(combinations(singles, 2)), 40, 5.0, "stranger", seed=5))
    s26, s31 = (sorted(f"grid_unseen/{p.name}" for p in (root / "grid_unseen").glob(f"{t}_*")) for t in ("s26", "s31"))
    rows = draw_mixtures(list(product(s26, s31)), 200, 5.0, "s26-s31", seed=2)
    rows += draw_mixtures(list(combinations(s26, 2)), 100, 5.0, "s26-s26", seed=3)
    rows += draw_mixtures(list(combinations(s31, 2)), 100, 5.0, "s31-s31", seed=4)
    write_manifest(out / "unseen_talkers.csv", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
