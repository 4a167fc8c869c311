"""Dynamic mixing: two talking clips become one mixture that only the lips can take apart.

A network that may separate by the sound of the voices will not look at the lips. So a good part of the mixtures holds
one talker against himself, and every mixture is asked twice, once with each mouth: the same sound must give two
different answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipsep.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.data.clips.clips import TalkingClip, TalkingClips
from lipsep.data.clips.pace import draw_stretch
from lipsep.data.clips.pictures import show_face
from lipsep.data.clips.stored import Sliced
from lipsep.data.mixing.bin_pipeline import BinCorpus, bin_mixture
from lipsep.data.mixing.lip_view import LipView
from lipsep.data.mixing.mouth_augmentation import MouthConfig
from lipsep.errors import ModelError
from lipsep.lips.recipes import LipRecipe


@dataclass(frozen=True)
class MixingConfig:
    """How mixtures are drawn; the defaults made the weights that ship."""

    segment_s: float = 2.0
    speakers: int = 2  # voices in each mixture; with two of them it is asked
    gain_db: float = 5.0  # the others lie within -gain_db..gain_db of the second voice
    distinct_talkers: bool = False  # voices of different people alone, in validation too, as in the papers' lists
    filmed_pairs: float = 0.5  # share of mixtures of two filmed clips (one talker against himself)
    alike: float = 0.5  # among filmed pairs: names with the same first letter, in GRID the same first word
    own_pace: float = 0.5  # among filmed pairs: both at the pace at which they were filmed
    crossed_pairs: float = 0.15  # share of mixtures of a filmed clip with an unfilmed voice; the rest: two unfilmed
    aligned: float = 0.7  # of pairs at one pace: cut at the same moment, so that the same words coincide
    same_pace: float = 0.5  # among the other filmed pairs: both at one pace, so that the voices are alike
    pace: tuple[float, float] = (0.8, 1.25)
    noise: float = 0.25  # share of mixtures with noise
    noise_snr_db: tuple[float, float] = (5.0, 20.0)
    own_voice: float = 0.25  # among mixtures of two unfilmed voices: both are stretches of one recording
    mouths: MouthConfig | None = field(default_factory=MouthConfig)  # None: mouths as they are
    random_crop: bool = True  # filmed mouths: cut near the middle, half of them mirrored; False: the middle. Faces: so
    contrast: float = 0.0  # of filmed mouths, by which share it varies
    dropped: float = 0.1  # share of examples in which a stretch of up to 0.4 s shows no mouth
    hidden: float = 0.0  # share of mixtures in which one of the mouths is never seen, for models of all faces at once
    occluded: float = 0.0  # share of examples in which something grey covers a part of the mouth for up to 1 s
    target_absent: float = 0.0  # share of mixtures asked with one stranger's mouth: the answer should be silence
    resting: float = 0.0  # of these strangers: the share whose lips do not move
    bin_pipeline: BinCorpus | None = None  # as BIN's authors mix that corpus, flaws included; levels are theirs


class Mixtures(Dataset):
    """Endless training mixtures; item `i` of epoch `e` depends on the seed, `e` and `i` only, so that a resumed run
    sees what an uninterrupted one would have seen.

    Item: ``mixture (2, T)``, ``lips (2, F, S, S)``, ``sources (2, 1, T)``: one mixture asked with both mouths; for
    models that need them also ``faces (2, 3, P, P)``.
    """

    def __init__(
        self,
        filmed: TalkingClips,
        unfilmed: TalkingClips | None,
        noises: Sliced | None,
        config: MixingConfig,
        recipe: LipRecipe,
        n_items: int,
        seed: int,
        epoch: int = 0,
        face_size: int | None = None,
    ):
        """
        Args:
            filmed, unfilmed: clips with real mouths, and with mouths made from the sound.
            noises: (T,) int16, all noises end to end, or None.
            recipe: how the model's lip pictures are made.
            n_items: mixtures per epoch.
            face_size: pixels of the faces' pictures; None: the model needs none.

        Raises:
            ModelError: voices are to be of different people, and the filmed clips show too few.
        """
        self.filmed, self.unfilmed, self.noises = filmed, unfilmed, noises
        self.config, self.recipe, self.face_size = config, recipe, face_size
        self.n_items, self.seed, self.epoch = n_items, seed, epoch
        if config.distinct_talkers:
            self._check_talkers()
        self.n_frames = round(config.segment_s * SAMPLE_RATE / SAMPLES_PER_FRAME)
        self.view = LipView(filmed, unfilmed, config.mouths, config.random_crop, recipe, config.contrast)

    def _check_talkers(self) -> None:
        pairs = self.unfilmed is None or self.config.filmed_pairs > 0
        needed = 1 + pairs + self.config.speakers - 2 + (self.config.target_absent > 0)
        for corpus, needs in ((self.filmed, needed), (self.unfilmed, 2)):
            if corpus is not None and (shown := len(set(corpus.talkers))) < needs:
                raise ModelError(
                    f"recipe: data.mixing.distinct_talkers needs clips of {needs} talkers, and these {len(corpus)} are "
                    f"of {shown}: use a corpus with more talkers, or leave it out"
                )

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= self.n_items:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        (first, first_pace), (second, second_pace) = self._draw_pair(rng)
        places = rng.integers(2**32, size=2)  # seeds of where the stretches are cut
        if first_pace == second_pace and rng.random() < self.config.aligned:
            places[1] = places[0]
        voices, pictures = [], []
        for clip, pace, place in ((first, first_pace, places[0]), (second, second_pace, places[1])):
            voice, seen = self._stretch(clip, pace, np.random.default_rng(place), rng)
            voices.append(voice)
            pictures.append(seen)
        if self.config.hidden and rng.random() < self.config.hidden:
            pictures[int(rng.integers(2))][:] = 0
        mixture, sources = self._mix(voices, (first, second), rng)
        clips = [first, second]
        if self.config.target_absent and rng.random() < self.config.target_absent:
            clips[1] = self._other((first, second), rng)
            position = draw_stretch(clips[1], 1.0, self.n_frames, rng)[1]
            if self.config.resting and rng.random() < self.config.resting:
                position[:] = position[0]
            pictures[1], sources[1] = self._film(clips[1], position, rng), 0.0
        return (
            torch.from_numpy(np.stack([mixture, mixture]).astype(np.float32)),
            torch.from_numpy(np.stack(pictures)),
            torch.from_numpy(sources[:, None].astype(np.float32)),
            *self._faces(clips, rng),
        )

    def _stretch(
        self, clip: TalkingClip, pace: float, place: np.random.Generator, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A voice (T,) of RMS 1 and its pictures (F, S, S); place: decides where the stretch is cut."""
        voice, position = draw_stretch(clip, pace, self.n_frames, place)
        return voice / (np.sqrt(np.mean(np.square(voice))) + 1e-4), self._film(clip, position, rng)

    def _mix(
        self, voices: list[np.ndarray], spoken: tuple[TalkingClip, ...], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mixture (T,) of two voices and what else the recipe asks for, and the voices (2, T) as they are in it."""
        if self.config.bin_pipeline:
            noise = self._noise(voices[0], rng)
            return bin_mixture(tuple(voices), noise, self.config.bin_pipeline, self.config.gain_db, rng)
        sources = np.stack([voices[0] * self._gain(rng), voices[1]])  # (2, T)
        mixture = sources.sum(0)
        for _ in range(self.config.speakers - 2):
            spoken = (*spoken, self._other(spoken, rng))
            mixture = mixture + self._bystander(spoken[-1], rng)
        if self.noises is not None and rng.random() < self.config.noise:
            mixture = mixture + self._noise(mixture, rng)
        level = 0.1 / (np.sqrt(np.mean(np.square(mixture))) + 1e-8)  # a recording's usual level
        return mixture * level, sources * level

    def _faces(self, clips: list[TalkingClip], rng: np.random.Generator) -> list[Tensor]:
        """Their faces, (clips, 3, P, P), if the model needs any."""
        if self.face_size is None:
            return []
        varied = rng if self.config.random_crop else None
        return [torch.from_numpy(np.stack([show_face(clip.face, self.face_size, varied) for clip in clips]))]

    def _bystander(self, clip: TalkingClip, rng: np.random.Generator) -> np.ndarray:
        """A voice (T,) that nobody asks for."""
        voice, _ = draw_stretch(clip, 1.0, self.n_frames, rng)
        return self._gain(rng) * voice / (np.sqrt(np.mean(np.square(voice))) + 1e-4)

    def _gain(self, rng: np.random.Generator) -> float:
        """Of a voice against the second one, as a factor."""
        return 10 ** (rng.uniform(-self.config.gain_db, self.config.gain_db) / 20)

    def _other(self, spoken: tuple[TalkingClip, ...], rng: np.random.Generator) -> TalkingClip:
        """One that says something else than any of the clips; of another talker where they are to be distinct."""
        clip = spoken[0]
        while any(self._alike(clip, other) for other in spoken):
            clip = self.filmed[int(rng.integers(len(self.filmed)))]
        return clip

    def _alike(self, first: TalkingClip, second: TalkingClip) -> bool:
        """Whether two clips may not be in one mixture."""
        return first.talker == second.talker if self.config.distinct_talkers else first.name == second.name

    def _draw_pair(self, rng: np.random.Generator) -> tuple[tuple[TalkingClip, float], tuple[TalkingClip, float]]:
        """Two clips of different sentences, each with its pace."""
        kind = rng.random()
        paces = rng.uniform(*self.config.pace, size=2)
        if self.unfilmed is None or kind < self.config.filmed_pairs:
            first, second = self._draw_filmed(rng)
            if rng.random() < self.config.own_pace:
                paces[:] = 1.0
            elif rng.random() < self.config.same_pace:
                paces[1] = paces[0]
            return (self.filmed[first], paces[0]), (self.filmed[second], paces[1])
        second = self.unfilmed[int(rng.integers(len(self.unfilmed)))]
        if kind < self.config.filmed_pairs + self.config.crossed_pairs:
            first = self.filmed[int(rng.integers(len(self.filmed)))]
        elif self._splits(second) and rng.random() < self.config.own_voice:
            first, second = second.part(0, second.n_frames // 2), second.part(second.n_frames // 2, second.n_frames)
            paces[1] = paces[0]
        else:
            first = self.unfilmed[int(rng.integers(len(self.unfilmed)))]
            while self.config.distinct_talkers and self._alike(first, second):
                first = self.unfilmed[int(rng.integers(len(self.unfilmed)))]
        return (first, paces[0]), (second, paces[1])

    def _splits(self, clip: TalkingClip) -> bool:
        """Whether two stretches of one recording may be mixed."""
        return not self.config.distinct_talkers and clip.n_frames >= 4 * self.n_frames

    def _draw_filmed(self, rng: np.random.Generator) -> tuple[int, int]:
        """Two different filmed clips, often ones that begin alike: the same word at once is hardest to take apart."""
        first, second = rng.choice(len(self.filmed), 2, replace=False)
        if rng.random() < self.config.alike:
            names = self.filmed.names
            rivals = [i for i, name in enumerate(names) if name[0] == names[first][0] and i != first]
            second = rng.choice(rivals) if rivals else second
        talkers = self.filmed.talkers
        while self.config.distinct_talkers and talkers[second] == talkers[first]:
            second = rng.integers(len(talkers))
        return int(first), int(second)

    def _film(self, clip: TalkingClip, position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Normalised pictures (F, S, S) of these places in the clip; some with a stretch without a mouth."""
        pictures = self.view(clip, position, rng)
        if not self.view.varies:
            return pictures
        if rng.random() < self.config.dropped:
            start = int(rng.integers(self.n_frames))
            pictures[start : start + int(rng.integers(1, 11))] = 0
        if self.config.occluded and rng.random() < self.config.occluded:
            self._cover(pictures, rng)
        return pictures

    def _cover(self, pictures: np.ndarray, rng: np.random.Generator) -> None:
        """A hand, a cup, a microphone: a grey rectangle over 20 to 60 % of each side, for 5 to 25 frames."""
        start, n_frames = int(rng.integers(self.n_frames)), int(rng.integers(5, 26))
        height, width = (rng.uniform(0.2, 0.6, 2) * self.recipe.size).astype(int)
        top, left = (rng.random(2) * (self.recipe.size - np.array([height, width]))).astype(int)
        pictures[start : start + n_frames, top : top + height, left : left + width] = rng.uniform(-2.0, 2.0)

    def _noise(self, mixture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        start = int(rng.integers(len(self.noises) - len(mixture)))
        noise = self.noises[start : start + len(mixture)].astype(np.float32)
        power = np.mean(np.square(noise)) + 1e-4
        snr_db = rng.uniform(*self.config.noise_snr_db)
        return noise * np.sqrt(np.mean(np.square(mixture)) / power) * 10 ** (-snr_db / 20)


def collate(items: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Stack pairs into one batch: mixture (2B, T), lips (2B, F, S, S), sources (2B, 1, T), and faces if there are."""
    return tuple(map(torch.cat, zip(*items, strict=True)))
