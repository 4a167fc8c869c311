"""What can be separated: a file, an open file, or arrays; all read the same way, as often as needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.errors import MediaError
from lipsep.media.reading import Frame, between, probe, read_audio, read_frames, read_recorded_audio, recorded_form
from lipsep.media.sound import AUTO, PLAIN, Sound, choose_sound
from lipsep.media.writing import mux, write_video

_ENDS = 2**20  # bytes at either end of a file that go into its signature


class FileClip:
    """A video file by its path, or open and seekable.

    Args:
        audio_track: which of its sound tracks is heard, see `lipsep.media.sound.choose_sound`.
        start_s, end_s: the part that counts; its start, on the grid of pictures, is time 0. None: to the end.

    Attributes:
        turn: degrees counter-clockwise by which its pictures are turned; may be set.

    Raises:
        MediaError: unreadable, without sound, or without moving pictures.
    """

    def __init__(
        self,
        source: str | os.PathLike | BinaryIO,
        audio_track: str | int = AUTO,
        start_s: float = 0.0,
        end_s: float | None = None,
    ) -> None:
        self._audio_track, self.turn = audio_track, 0
        self.path = Path(source) if isinstance(source, str | os.PathLike) else None
        self._source = source if self.path is None else self.path
        self._identity = None  # of the file that was there first
        info = probe(self._rewound())
        self.name, self.n_frames, self.n_samples = info.name, info.n_frames, info.n_samples
        if not info.has_video or info.is_still:
            found = "a still picture" if info.has_video else "no pictures"
            raise MediaError(f"'{self.name}' has {found}: lipsep needs a video that shows the people who speak")
        if not info.has_audio:
            raise MediaError(f"'{self.name}' has no sound: there is nothing to separate")
        self._first, self._last = _frames_between(self.name, info.duration_s, start_s, end_s)
        last = self._last if self._last is not None else max(self.n_frames, self._first)
        self.n_frames = max(0, min(self.n_frames, last) - self._first)
        n_cut = self._first * SAMPLES_PER_FRAME
        last_sample = self.n_samples if self._last is None else self._last * SAMPLES_PER_FRAME
        self.n_samples = max(0, min(self.n_samples, last_sample) - n_cut)
        if not self.n_frames:
            raise MediaError(f"'{self.name}' has no pictures between {start_s:g} s and its end: choose another part")

    @property
    def pictures_changed(self) -> bool:
        """Whether its pictures cannot simply be copied: they are turned, or only a part of them counts."""
        return bool(self.turn or self._first or self._last is not None)

    @property
    def signature(self) -> str:
        """Tells one input from another: size and content of both ends."""
        digest = hashlib.sha256()
        source = self._rewound()
        if self.path is None:
            size = _hash_ends(source, digest)
        else:
            try:
                with self.path.open("rb") as file:
                    size = _hash_ends(file, digest)
            except OSError as error:
                raise self._changed("cannot be opened any more") from error
        return f"{size}-{digest.hexdigest()[:32]}"

    def frames(self, *, grey: bool = False) -> Iterator[Frame]:
        frames = islice(read_frames(self._rewound(), grey=grey, turn=self.turn), self._first, self._last)
        for index, frame in enumerate(frames):
            yield Frame(index, index / FPS, frame.image)

    @cached_property
    def sound(self) -> Sound:
        """What is heard of the file; to find out, all of its sound is listened to once."""
        return choose_sound(self._rewound(), self._audio_track)

    def audio(self) -> Iterator[np.ndarray]:
        return self._part(read_audio(self._rewound(), sound=self.sound), SAMPLE_RATE)

    def recorded_form(self) -> tuple[int, np.ndarray]:
        """Sampling rate, Hz, of the sound as it was recorded, and the weights that make its channels one."""
        return recorded_form(self._rewound(), self.sound)

    def recorded_audio(self) -> Iterator[np.ndarray]:
        """float32 (n_channels, n) pieces at the recorded rate."""
        rate, weights = self.recorded_form()
        return self._part(read_recorded_audio(self._rewound(), rate, len(weights), self.sound), rate)

    def _part(self, pieces: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
        last = None if self._last is None else round(self._last * rate / FPS)
        return between(pieces, round(self._first * rate / FPS), last)

    def video_with(self, wav: Path, out: Path) -> Path:
        """The original pictures with another sound: copied as they are; encoded anew where they are turned or cut."""
        if self.pictures_changed:
            return write_video(out, (frame.image for frame in self.frames()), wav)
        return mux(self._rewound(), wav, out)

    def _rewound(self) -> Path | BinaryIO:
        """The source, to be read from its start: the same file as ever, since it is opened for each thing anew.

        Raises:
            MediaError: it was removed, replaced or written to meanwhile.
        """
        if self.path is None:
            self._source.seek(0)
            return self._source
        try:
            found = self.path.stat()
        except (OSError, ValueError) as error:
            if self._identity is None:  # `probe` tells what is wrong with it
                return self.path
            raise self._changed("was removed") from error
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if identity != (self._identity or identity):
            raise self._changed("was replaced, or is still being written")
        self._identity = identity
        return self.path

    def _changed(self, how: str) -> MediaError:
        return MediaError(f"'{self.path.name}' {how} while it was separated: start again when it stays as it is")


class ArrayClip:
    """A clip in memory: waveform float (T,) at 16 kHz, frames uint8 (F, H, W, 3) RGB at 25 fps, both from time 0.

    Raises:
        MediaError: other shapes or types.
    """

    path, sound, pictures_changed = None, PLAIN, True

    def __init__(
        self, waveform: np.ndarray, frames: np.ndarray, start_s: float = 0.0, end_s: float | None = None
    ) -> None:
        waveform, self._frames = np.asarray(waveform), np.asarray(frames)
        found = f"{waveform.dtype} waveform {waveform.shape} and {self._frames.dtype} frames {self._frames.shape}"
        pictures = self._frames.ndim == 4 and self._frames.shape[3] == 3 and self._frames.dtype == np.uint8
        if waveform.ndim != 1 or waveform.dtype.kind != "f" or not pictures:
            raise MediaError(
                f"got a {found}: needs float (T,) at {SAMPLE_RATE} Hz and uint8 (F, H, W, 3) RGB at {FPS} fps"
            )
        first, last = _frames_between("arrays", len(waveform) / SAMPLE_RATE, start_s, end_s)
        waveform = waveform[first * SAMPLES_PER_FRAME : None if last is None else last * SAMPLES_PER_FRAME]
        self._frames, self.turn = self._frames[first:last], 0
        self._waveform = waveform.astype(np.float32)
        self.name, self.n_samples, self.n_frames = "arrays", len(waveform), len(self._frames)
        if not self.n_samples or not self.n_frames or not np.isfinite(self._waveform).all():
            raise MediaError("the waveform or the frames are empty, or the waveform holds values that are not finite")

    @property
    def signature(self) -> str:
        digest = hashlib.sha256(self._waveform.tobytes())
        digest.update(np.ascontiguousarray(self._frames[:: max(1, self.n_frames // 100)]).tobytes())
        return f"{self.n_samples}-{digest.hexdigest()[:32]}"

    def frames(self, *, grey: bool = False) -> Iterator[Frame]:
        for index, image in enumerate(np.rot90(self._frames, self.turn // 90, axes=(1, 2))):
            image = np.ascontiguousarray(image)
            yield Frame(index, index / FPS, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if grey else image)

    def audio(self) -> Iterator[np.ndarray]:
        yield self._waveform

    def recorded_form(self) -> tuple[int, np.ndarray]:
        return SAMPLE_RATE, np.ones(1)

    def recorded_audio(self) -> Iterator[np.ndarray]:
        yield self._waveform[None]

    def video_with(self, wav: Path, out: Path) -> Path:
        return write_video(out, (frame.image for frame in self.frames()), wav)


Clip = FileClip | ArrayClip


def _frames_between(name: str, duration_s: float, start_s: float, end_s: float | None) -> tuple[int, int | None]:
    """The first frame of a part, and the first behind it; None: all to the end."""
    if start_s >= duration_s:
        raise MediaError(f"'{name}' lasts {duration_s:.2f} s: it has no part that begins at {start_s:g} s")
    if end_s is not None and end_s <= start_s:
        raise MediaError(f"a part from {start_s:g} s to {end_s:g} s holds nothing: its end must lie behind its start")
    return round(start_s * FPS), None if end_s is None else round(end_s * FPS)


def _hash_ends(file: BinaryIO, digest) -> int:
    digest.update(file.read(_ENDS))
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _ENDS))
    digest.update(file.read(_ENDS))
    return size
