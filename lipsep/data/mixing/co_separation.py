"""Two mixtures with one talker in common, as VisualVoice learns from (`lipsep.training.co_separation`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipsep.data.mixing.mixing import Mixtures
from lipsep.errors import ModelError


class CoSeparationMixtures(Mixtures):
    """Endless pairs of mixtures, A1 + B and A2 + B: two clips of talker A, each with one stretch of another talker.

    Item: ``mixture (4, T)``, ``lips (4, F, S, S)``, ``sources (4, 1, T)`` and ``faces (4, 3, P, P)`` where they are
    needed; rows: A in the first mixture, B in it, A in the second mixture, B in it. Clips at their own pace; of the
    recipe's mixing its length, gain, noise and changes of pictures count.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        """As `Mixtures`.

        Raises:
            ModelError: there are unfilmed voices, or not two talkers, one of them with two clips.
        """
        super().__init__(*args, **settings)
        if self.unfilmed is not None:
            raise ModelError("recipe: co-separation draws filmed talkers alone: leave 'unfilmed' out, or use loss snr")
        self.clips_of: dict[str, list[int]] = {}
        for index, talker in enumerate(self.filmed.talkers):
            self.clips_of.setdefault(talker, []).append(index)
        self.heard_twice = [talker for talker, clips in self.clips_of.items() if len(clips) > 1]
        if len(self.clips_of) < 2 or not self.heard_twice:
            raise ModelError(
                f"co-separation needs two talkers, one of them in two clips; these {len(self.filmed)} clips show "
                f"{len(self.clips_of)}: use a corpus with more talkers, or loss snr"
            )

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= self.n_items:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        talkers = list(self.clips_of)
        a = self.heard_twice[int(rng.integers(len(self.heard_twice)))]
        b = talkers[(talkers.index(a) + int(rng.integers(1, len(talkers)))) % len(talkers)]
        drawn = [*rng.choice(self.clips_of[a], 2, replace=False), rng.choice(self.clips_of[b])]
        first, second, other = (self.filmed[int(number)] for number in drawn)
        (voice_1, lips_1), (voice_2, lips_2), (voice_b, lips_b) = (
            self._stretch(clip, 1.0, rng, rng) for clip in (first, second, other)
        )
        mixtures, sources = [], []
        for clip, voice in ((first, voice_1), (second, voice_2)):
            mixture, heard = self._mix([voice, voice_b], (clip, other), rng)
            mixtures += [mixture, mixture]
            sources.append(heard)
        return (
            torch.from_numpy(np.stack(mixtures).astype(np.float32)),
            torch.from_numpy(np.stack([lips_1, lips_b, lips_2, lips_b])),
            torch.from_numpy(np.concatenate(sources)[:, None].astype(np.float32)),
            *(faces.repeat(2, 1, 1, 1) for faces in self._faces([first, other], rng)),
        )
