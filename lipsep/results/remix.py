"""A remix: the recording with some people turned down or up.

Voices and residual add up to the recording, so turning one person down by 12 dB leaves everything else as it was: far
cleaner than putting a new mixture together from the separated voices of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lipsep.errors import MediaError, OptionError
from lipsep.media.clip import Clip
from lipsep.media.writing import WavWriter
from lipsep.results.voices import LOUDEST, RecordedVoices, SeparatedVoices
from lipsep.separation.options import RESIDUAL, Options

STEM = "remix"


def remix_gains(options: Options, people: Sequence[int]) -> np.ndarray | None:
    """Factors of every person's voice and last of the residual, (n_people + 1,); None: no remix is asked for.

    Raises:
        OptionError: somebody is named who is not there.
    """
    if not (options.gain or options.mute or options.solo):
        return None
    names = [*map(str, people), RESIDUAL]
    gains_db = dict(given.split("=") for given in options.gain)
    strangers = {*gains_db, *options.mute, *options.solo} - {*names}
    if strangers:
        raise OptionError(f"there is no '{min(strangers)}' to turn up or down: there are {', '.join(names)}")
    gains = np.array([10 ** (float(gains_db.get(name, 0)) / 20) for name in names])
    kept = [name not in options.mute and (not options.solo or name in options.solo) for name in names]
    return gains * kept


def write_remix(
    found: SeparatedVoices, clip: Clip, folder: Path, gains: np.ndarray, video: bool, warn: Callable[[str], None]
) -> None:
    """remix.wav at the rate and with the channels of the recording, and remix.mp4 with its pictures."""
    recorded = RecordedVoices(found, clip)

    def blocks():
        for block in recorded.blocks():
            yield np.tensordot(gains.astype(np.float32), block, 1)  # (n_channels, n)

    peak = max((float(np.abs(block).max(initial=0)) for block in blocks()), default=0.0)
    scale = min(1.0, LOUDEST / max(peak, LOUDEST))
    if scale < 1:
        warn(f"the remix is louder than full scale: all of it is scaled by {scale:.3f}")
    wav = folder / f"{STEM}.wav"
    with WavWriter(wav, sample_rate=recorded.sample_rate, n_channels=recorded.n_channels) as out:
        for block in blocks():
            out.write(block * np.float32(scale))
    if video:
        try:
            clip.video_with(wav, folder / f"{STEM}.mp4")
        except MediaError as error:
            warn(f"no {STEM}.mp4: {error}")
