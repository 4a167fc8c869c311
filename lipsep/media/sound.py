"""What is heard of a file: which of its sound tracks, how their channels become one, and when each piece sounds.

Channels become one as in Recommendation ITU-R BS.775-3, Annex 4: L and R with 0.7071, the centre with 1, surrounds with
0.5, no LFE. Without a centre all weights are smaller by 0.7071, so that two equal channels keep their level: for stereo
that is the mean. Microphone cables and recorders go wrong in two ways that a sum would turn into quiet or silence: one
of two channels is empty, or one is upside down. `choose_sound` finds both, over the whole file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import av
import numpy as np

from lipsep.errors import MediaError
from lipsep.media.containers import Source, open_media, sound_streams, source_name
from lipsep.media.decoding import Losses, sound_frames

AUTO, MIX = "auto", "mix"
SILENT_DBFS = -70.0  # a track is silent if no frame of it is louder: muted microphones hiss at -80 and below
FRAME = 640  # samples at 16 kHz
EMPTY_DB = -40.0  # a channel this far below the other carries nothing but what leaks into it
OPPOSITE = -0.5  # correlation of two channels from which on one of them is upside down
MISSING_S, MISSING_SHARE = 0.5, 0.1  # sound that is shorter than its file says by more than both is partly lost
LOUDEST = 16.0  # 24 dB above full scale; only damaged floating-point sound goes beyond
_SIDE, _SURROUND = 0.5**0.5, 0.5
_WEIGHTS = {
    **dict.fromkeys(("FC", "BC", "TC"), 1.0),
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "WL", "WR", "DL", "DR"), _SIDE),
    **dict.fromkeys(("BL", "BR", "SL", "SR", "TFL", "TFR", "TBL", "TBR", "TSL", "TSR", "TFC", "TBC"), _SURROUND),
    **dict.fromkeys(("LFE", "LFE2"), 0.0),
}
_USUAL_LAYOUTS = {6: "5.1", 8: "7.1"}


def bs775_weights(names: tuple[str, ...]) -> np.ndarray:
    """The share of each channel, by FFmpeg's names ("FL", "FC", ...), in one: float64 (n_channels,).

    The mean where the names tell no places (recorders with many microphones).
    """
    if not set(names) <= _WEIGHTS.keys():
        return np.full(len(names), 1 / len(names))
    weights = np.array([_WEIGHTS[name] for name in names])
    if not weights.any():
        return np.full(len(names), 1 / len(names))
    return weights if "FC" in names else weights * _SIDE


@dataclass(frozen=True)
class Track:
    """One sound track that is heard.

    Attributes:
        number: among the sound tracks of the file, from 1.
        signs: of a two-channel track: (1, 1); (1, -1) where the second channel is upside down; (1, 0) or (0, 1) where
            one channel is empty.
    """

    number: int
    signs: tuple[int, int] = (1, 1)

    def one_channel(self, frame: av.AudioFrame) -> np.ndarray:
        """The frame as one channel, float32 (1, n), full scale 1."""
        names = channel_names(frame)
        weights = bs775_weights(names)
        if len(names) == 2:
            weights = np.array(self.signs) / np.count_nonzero(self.signs)
        return _clipped(weights @ samples_of(frame))[None]

    def channels(self, frame: av.AudioFrame, n_channels: int) -> np.ndarray:
        """The frame's own channels, repaired, float32 (n_channels, n); what it sounds like as one in each of them where
        it has another number of channels, as for one."""
        if frame.layout.nb_channels != n_channels or n_channels == 1:
            return np.repeat(self.one_channel(frame), n_channels, axis=0)
        samples = samples_of(frame)
        if n_channels == 2:
            samples = samples[[0 if self.signs[0] else 1, 1 if self.signs[1] else 0]]  # the one that is not empty
            samples = samples * np.array([[1], [-1 if -1 in self.signs else 1]])
        return _clipped(samples)


@dataclass(frozen=True)
class Sound:
    """What is heard of a file: the sum of these tracks, and what is to be said about the choice."""

    tracks: tuple[Track, ...] = (Track(0),)
    notes: tuple[str, ...] = ()


PLAIN = Sound()
"""The track flagged default, else the first that can be decoded, taken as it is: nothing was looked at."""


def choose_sound(source: Source, wanted: str | int = AUTO) -> Sound:
    """Listen to the whole file, and say what of it is to be heard.

    Args:
        wanted: "auto": the track flagged default, else the first, of those that are not silent; a number from 1; or
            "mix": all of them, added up.

    Raises:
        MediaError: there is no such track, or none that can be decoded.
    """
    name = source_name(source)
    with open_media(source) as container:
        n_tracks, numbers = len(container.streams.audio), [number for number, _ in sound_streams(container)]
    if not numbers:
        raise MediaError(f"'{name}' has no sound that can be decoded: there is nothing to separate.")
    if wanted == MIX:
        found = [_listen(source, number) for number in sorted(numbers)]
        notes = [f"{len(found)} sound tracks are added up"] if len(found) > 1 else []
    elif wanted == AUTO:
        found, notes = _first_that_sounds(source, numbers, n_tracks)
    else:
        if int(wanted) not in numbers:
            usable = ", ".join(map(str, sorted(numbers)))
            raise MediaError(f"'{name}' has no sound track {wanted} that can be decoded: choose {usable} or mix")
        found, notes = [_listen(source, int(wanted))], []
    for heard in found:
        notes += heard.notes(n_tracks)
    return Sound(tuple(heard.track for heard in found), tuple(notes))


def loudest_power(samples: np.ndarray) -> float:
    """The mean square of the loudest stretch of FRAME samples, float (n,), full scale 1."""
    whole = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)  # (n // FRAME, FRAME)
    return float(np.square(whole, dtype=np.float64).mean(1).max(initial=0.0))


def is_silent(power: float) -> bool:
    """Whether sound of this mean square is nothing that a model could hear a voice in."""
    return 10 * np.log10(power + 1e-20) < SILENT_DBFS


@dataclass
class _Heard:
    """What one track sounds like."""

    number: int
    loudest: float = 0.0  # mean square of the loudest frame, of the loudest channel
    gram: np.ndarray | None = None  # (2, 2) of two-channel frames, sums of products
    n_unstamped: int = 0  # frames
    n_frames: int = 0
    heard_s: float = 0.0  # of sound that could be decoded
    losses: Losses = field(default_factory=Losses)

    @property
    def silent(self) -> bool:
        return is_silent(self.loudest)

    @property
    def track(self) -> Track:
        if self.gram is None or self.silent:
            return Track(self.number)
        left, right = np.diag(self.gram)
        if min(left, right) < 10 ** (EMPTY_DB / 10) * max(left, right):
            return Track(self.number, (1, 0) if left > right else (0, 1))
        correlation = self.gram[0, 1] / np.sqrt(left * right)
        return Track(self.number, (1, -1) if correlation < OPPOSITE else (1, 1))

    def notes(self, n_tracks: int) -> list[str]:
        which = f" of sound track {self.number}" if n_tracks > 1 else ""
        notes = self._losses(which or " of the sound")
        if self.n_unstamped > 0.5 * self.n_frames:
            notes.append(f"the timestamps{which or ' of the sound'} are damaged: its pieces are joined without them")
        signs = self.track.signs
        if 0 in signs:
            full, empty = ("left", "right") if signs[0] else ("right", "left")
            notes.append(f"the {empty} channel{which} is empty: the {full} one is heard alone, at its full level")
        elif -1 in signs:
            notes.append(f"the two channels{which} are in opposite phase: the right one is turned back")
        return notes

    def _losses(self, which: str) -> list[str]:
        notes, lost, stated_s = [], self.losses, self.losses.stated_s or 0.0
        if lost.n_failed:
            notes.append(
                f"{lost.n_failed} of {lost.n_packets} packets{which} could not be decoded: what was in them is missing"
            )
        if stated_s - self.heard_s > max(MISSING_S, MISSING_SHARE * stated_s):
            notes.append(
                f"only {self.heard_s:.1f} s{which} could be decoded, and the file says that there are {stated_s:.1f}: "
                "the rest is missing or silent"
            )
        return notes


def _first_that_sounds(source: Source, numbers: list[int], n_tracks: int) -> tuple[list[_Heard], list[str]]:
    silent = []
    for number in numbers:
        heard = _listen(source, number)
        if not heard.silent:
            break
        silent.append(heard)
    else:
        return [silent[0]], []  # there is nothing else
    notes = [f"sound track {each.number} of {n_tracks} is silent: track {number} is heard instead" for each in silent]
    if n_tracks > 1 and not notes:
        notes.append(f"track {number} of {n_tracks} sound tracks is heard: --audio-track takes another, or mix")
    return [heard], notes


def _listen(source: Source, number: int) -> _Heard:
    heard = _Heard(number)
    for frame, time_s in sound_frames(source, number, heard.losses):
        samples = samples_of(frame)
        if not samples.size:
            continue
        heard.n_frames += 1
        heard.heard_s += samples.shape[1] / frame.sample_rate
        heard.n_unstamped += time_s is None
        gram = samples @ samples.T  # (n_channels, n_channels)
        heard.loudest = max(heard.loudest, float(np.diag(gram).max()) / samples.shape[1])
        if len(gram) == 2:
            heard.gram = gram if heard.gram is None else heard.gram + gram
    return heard


def channel_names(frame: av.AudioFrame) -> tuple[str, ...]:
    """FFmpeg's names of the channels. One channel is the centre, whatever it is called; six or eight without places
    (PCM in Matroska) are 5.1 or 7.1, as players take them."""
    n_channels = frame.layout.nb_channels
    if n_channels == 1:
        return ("FC",)
    names = tuple(channel.name for channel in frame.layout.channels)
    if n_channels in _USUAL_LAYOUTS and not set(names) & _WEIGHTS.keys():
        return tuple(channel.name for channel in av.AudioLayout(_USUAL_LAYOUTS[n_channels]).channels)
    return names


def samples_of(frame: av.AudioFrame) -> np.ndarray:
    """float64 (n_channels, n), full scale 1, finite."""
    samples = frame.to_ndarray()  # planar (n_channels, n), packed (1, n * n_channels)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T  # (n_channels, n)
    kind, full_scale = samples.dtype.kind, 2 ** (8 * samples.itemsize - 1)
    with np.errstate(invalid="ignore"):  # damaged floating-point sound
        samples = samples.astype(np.float64)
    if kind == "f":
        return np.clip(np.nan_to_num(samples, nan=0.0, posinf=LOUDEST, neginf=-LOUDEST), -LOUDEST, LOUDEST)
    return (samples - full_scale) / full_scale if kind == "u" else samples / full_scale


def _clipped(samples: np.ndarray) -> np.ndarray:
    return np.clip(samples, -LOUDEST, LOUDEST).astype(np.float32)
