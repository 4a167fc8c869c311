"""Separate a video in Python: who is visible, when, and each voice as an array.

python examples/voices.py [VIDEO] [MODEL]
"""

from __future__ import annotations

import sys
from importlib.resources import as_file, files

import numpy as np

from lipsep import Separator

with as_file(files("lipsep") / "assets" / "demo.mp4") as bundled:
    video = sys.argv[1] if len(sys.argv) > 1 else bundled
    separator = Separator(*sys.argv[2:3])
    result = separator(video)

for track, voice in zip(result.tracks, result.voices, strict=True):
    level_dbfs = 10 * np.log10(np.mean(voice**2) + 1e-12)
    print(f"person {track.person}: visible in {track.present.mean():.0%} of the frames, {level_dbfs:.1f} dBFS")
print("voices", result.voices.shape, "at", result.sample_rate, "Hz")
