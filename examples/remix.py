"""Turn one person down and everyone else up: voices and residual add up to the mixture, so any mix of them is possible.

python examples/remix.py [VIDEO] [MODEL]      # writes remix.wav
"""

from __future__ import annotations

import sys
from importlib.resources import as_file, files

import numpy as np
import soundfile

from lipsep import Separator

GAIN_DB = {1: -20.0}  # of person 1; everyone else and the residual stay as they are

with as_file(files("lipsep") / "assets" / "demo.mp4") as bundled:
    video = sys.argv[1] if len(sys.argv) > 1 else bundled
    result = Separator(*sys.argv[2:3])(video)

gains = [10 ** (GAIN_DB.get(track.person, 0.0) / 20) for track in result.tracks]
remix = result.residual + np.tensordot(gains, result.voices, axes=1)  # (T,)
soundfile.write("remix.wav", remix / max(1.0, float(np.abs(remix).max())), result.sample_rate)
print("remix.wav:", len(remix) / result.sample_rate, "s")
