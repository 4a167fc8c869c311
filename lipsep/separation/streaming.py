"""Separation while people speak: sound and pictures come in piece by piece, voices go out a fixed time later.

What comes out is what the same causal model gives for the whole recording at once. Memory and time per piece do not
grow. Three delays add up:

- the model's: a sample is known once the sound of one more window (16 ms) has been heard; pictures are not waited for;
- pairs: frames are worked on two at a time, which delays every second one by a hop (8 ms);
- the piece: sound that comes in pieces of 200 ms waits for its piece to be complete.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.constants import SAMPLE_RATE, SAMPLES_PER_FRAME, Hook
from lipsep.errors import ModelError
from lipsep.layers.memory import Memory
from lipsep.models.base import SeparationModel
from lipsep.models.swiftnet import STRIDE, SwiftNet
from lipsep.separation.presence import presence_gate
from lipsep.separation.windows import LipStream

PICTURES_AT_ONCE = 5
"""Pictures in a piece of `separate_stream`: one core does not keep up with smaller ones (docs/streaming.md)."""


@dataclass
class StreamState:
    """All that a stream remembers; sizes do not depend on its length.

    Attributes:
        sound: (B, n), from the sample that the next frame begins with on, or a little earlier.
        n_heard: samples that came in.
        n_given: samples that went out.
        n_frames: frames of the spectrogram that are done.
        pictures: (B, P, S, S), the last ones, which the video encoder looks back on.
        n_seen: pictures that came in.
        cues: (B, n, C) what lips do to sound, for the last n of the pictures.
        recent: (B, n) the last samples, which are mirrored at the end.
        overlap: (B, hop) the second half of the last frame's estimate, windowed; None before the first.
        sound_memory, video_memory: of the model's layers.
    """

    sound: Tensor
    pictures: Tensor
    cues: Tensor
    recent: Tensor
    overlap: Tensor | None = None
    n_heard: int = 0
    n_given: int = 0
    n_frames: int = 0
    n_seen: int = 0
    sound_memory: Memory = field(default_factory=Memory)
    video_memory: Memory = field(default_factory=Memory)


class Stream:
    """One recording in the making: `push` what is new, get what is ready; `finish` for the rest.

    Args:
        model: a causal `SwiftNet` in evaluation mode.
        batch: B, recordings (or people in one recording) side by side.

    Raises:
        ModelError: the model is not causal, or its video encoder looks ahead without a limit.
    """

    def __init__(self, model: SeparationModel, batch: int = 1) -> None:
        check_streamable(model)
        c = model.config
        parameter = next(model.parameters())
        self.model, self.n_fft, self.hop = model, c.n_fft, c.hop
        self.ahead = model.video_encoder.lookahead_frames
        self.window = torch.hann_window(c.n_fft, device=parameter.device)
        self.state = StreamState(
            sound=parameter.new_zeros(batch, 0),
            pictures=parameter.new_zeros(batch, 2 * self.ahead, c.lip_size, c.lip_size),
            cues=parameter.new_zeros(batch, 0, c.video_channels),
            recent=parameter.new_zeros(batch, 0),
        )

    @property
    def latency_ms(self) -> float:
        """How long after a sample's own time it can be given, at the latest, without what the pieces' length adds."""
        return 1000 * (self.n_fft + (STRIDE - 1) * self.hop) / SAMPLE_RATE

    @torch.inference_mode()
    def push(self, sound: Tensor, lips: Tensor) -> Tensor:
        """Take the next samples and pictures: (B, n), (B, f, S, S) -> the samples that are ready, (B, m).

        n and f may be anything, but sound whose pictures have not come waits for them.
        """
        state = self.state
        self._watch(lips)
        state.sound, state.n_heard = torch.cat([state.sound, sound], 1), state.n_heard + sound.shape[1]
        state.recent = torch.cat([state.recent, sound], 1)[:, -self.n_fft // 2 - 1 :]
        if state.n_heard <= self.n_fft // 2:
            return sound[:, :0]
        if state.n_frames == 0 and state.sound.shape[1] == state.n_heard:
            state.sound = torch.cat([state.sound[:, 1 : self.n_fft // 2 + 1].flip(1), state.sound], 1)
        per_picture = SAMPLES_PER_FRAME // self.hop
        n_ready = min((state.n_heard - self.n_fft // 2) // self.hop + 1, per_picture * state.n_seen + 1)
        return self._give(self._separate((n_ready - state.n_frames) // STRIDE * STRIDE))

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """The samples that are still owed, (B, m). Nothing may be pushed afterwards."""
        state, half = self.state, self.n_fft // 2
        if not state.n_heard:
            return state.sound
        if not state.n_seen:
            raise ModelError("a stream ended without a single picture: push lips with the sound")
        n_owed = state.n_heard - state.n_given
        n_missing = max(0, self.n_fft - state.n_heard)
        early = self.push(state.sound.new_zeros(len(state.sound), n_missing), state.pictures[:, :0])
        state.sound = torch.cat([state.sound, state.recent[:, -half - 1 : -1].flip(1)], 1)
        n_left = 1 + state.n_heard // self.hop - state.n_frames
        late = self._give(self._separate(n_left + n_left % STRIDE, n_left))
        tail = state.overlap / self.window[half:].square().clamp(min=1e-11)
        return torch.cat([early, late, tail], 1)[:, :n_owed]

    def _watch(self, lips: Tensor) -> None:
        """From new pictures to cues; the features of a picture are those of the one `ahead` before it."""
        state, n_new = self.state, lips.shape[1]
        if not n_new:
            return
        if self.ahead:
            seen = torch.cat([state.pictures, lips], 1)
            features = self.model.video_encoder(seen, slice(self.ahead, self.ahead + n_new))  # (B, f, C)
            features[:, : max(0, self.ahead - state.n_seen)] = 0
            state.pictures = seen[:, n_new:]
        else:
            features = self.model.video_encoder(lips)
        new = self.model.modulate(features, state.video_memory)
        state.video_memory.next_piece()
        state.cues, state.n_seen = torch.cat([state.cues, new], 1), state.n_seen + n_new

    def _separate(self, n_new: int, n_real: int | None = None) -> Tensor:
        """The next `n_new` frames' estimates, windowed: (B, n_real, n_fft); those beyond `n_real` are silent."""
        state = self.state
        if not n_new:
            return state.sound.new_zeros(len(state.sound), 0, self.n_fft)
        n_real = n_new if n_real is None else n_real
        frames = state.sound[:, : (n_real - 1) * self.hop + self.n_fft].unfold(1, self.n_fft, self.hop) * self.window
        spectrum = F.pad(torch.fft.rfft(frames), (0, 0, 0, n_new - n_real))  # (B, n_new, F)
        numbers = torch.arange(state.n_frames, state.n_frames + n_new, device=spectrum.device)
        pictures = self.model.picture_of(numbers).clamp(max=state.n_seen - 1)
        first = state.n_seen - state.cues.shape[1]
        estimate = self.model.separate(spectrum, state.cues[:, pictures - first], state.sound_memory)[:, :n_real]
        state.sound_memory.next_piece()
        state.n_frames += n_new
        state.sound = state.sound[:, n_new * self.hop :]
        state.cues = state.cues[:, int(pictures[-1]) - first :]
        return torch.fft.irfft(estimate, self.n_fft) * self.window

    def _give(self, frames: Tensor) -> Tensor:
        """Overlap-add: windowed frames (B, n, n_fft) -> (B, m), one hop fewer the first time."""
        state = self.state
        if not frames.shape[1]:
            return frames.flatten(1)
        first, second = frames.split(self.hop, dim=2)  # (B, n, hop) each
        if state.overlap is None:  # half of the first frame lies before the recording
            first, before = first[:, 1:], second[:, :-1]
        else:
            before = torch.cat([state.overlap.unsqueeze(1), second[:, :-1]], 1)
        weight = self.window[: self.hop].square() + self.window[self.hop :].square()
        ready = ((before + first) / weight).flatten(1)
        state.overlap, state.n_given = second[:, -1], state.n_given + ready.shape[1]
        return ready


def check_streamable(model: SeparationModel) -> None:
    """Raises ModelError unless `model` can separate piece by piece."""
    if not isinstance(model, SwiftNet):
        raise ModelError(
            f"'{model.name}' needs whole windows of sound: streaming works with swiftnet_6 and swiftnet_12"
        )
    if not model.config.causal:
        raise ModelError(
            f"'{model.name}' has causal=False, as its authors' weights need it: their norms take in the whole "
            "recording; train it with causal=True for streaming"
        )
    if model.config.attention_span is None:
        raise ModelError(f"'{model.name}' attends to all of the past: set attention_span, so that memory has a limit")
    if model.video_encoder.lookahead_frames is None:
        raise ModelError(
            f"the video encoder '{model.config.video_encoder}' of '{model.name}' looks ahead without a limit: "
            "streaming works with resnet18_3d and autoencoder"
        )


def separate_stream(
    model: SeparationModel,
    read: Callable[[int, int], np.ndarray],
    n_samples: int,
    lips: Sequence[LipStream],
    present: Sequence[np.ndarray] | None = None,
    *,
    device: str | torch.device = "cpu",
    hook: Hook | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Iterator[tuple[int, np.ndarray]]:
    """Separate a recording as a stream of pieces of a few pictures each; all people side by side.

    Args and yields: as `lipsep.separation.windows.separate_windows`.

    Raises:
        ModelError: see `check_streamable`.
    """
    if not model.keeps_level:
        warn("a stream cannot match levels afterwards: voices are as loud as the model makes them")
    stream = Stream(model, len(lips))
    n_frames = -(-n_samples // SAMPLES_PER_FRAME)
    gates = None if present is None else np.stack([presence_gate(p, n_frames) for p in present])

    def pieces() -> Iterator[Tensor]:
        for first in range(0, n_frames, PICTURES_AT_ONCE):
            last = min(first + PICTURES_AT_ONCE, n_frames)
            heard = read(first * SAMPLES_PER_FRAME, min(last * SAMPLES_PER_FRAME, n_samples))
            sound = torch.from_numpy(np.array(heard, np.float32)).expand(len(lips), -1)
            yield stream.push(sound.to(device), _pictures(lips, first, last, model.config.lip_size).to(device))
            if hook:
                hook("separate", last, n_frames)
        yield stream.finish()

    start = 0
    for piece in itertools.filterfalse(lambda p: not p.shape[1], pieces()):
        block = piece.cpu().numpy()
        if gates is not None:
            at = np.arange(start, start + block.shape[1]) / SAMPLES_PER_FRAME
            block = block * np.stack([np.interp(at, np.arange(n_frames + 1), gate) for gate in gates]).astype(
                np.float32
            )
        yield start, block
        start += block.shape[1]


def _pictures(lips: Sequence[LipStream], first: int, last: int, size: int) -> Tensor:
    """Everyone's pictures of frames first..last-1, zeros beyond a stream's end: (n_people, last - first, S, S)."""
    pictures = np.zeros((len(lips), last - first, size, size), np.float32)
    for own, stream in zip(pictures, lips, strict=True):
        if n_left := max(0, min(last, stream.n_frames) - first):
            own[:n_left] = stream.read(first, first + n_left)
    return torch.from_numpy(pictures)
