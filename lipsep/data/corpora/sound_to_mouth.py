"""Mouths for voices that were never filmed: predict the mouth points from the sound.

Speech corpora have thousands of talkers and no pictures; lip corpora that may be used freely have few talkers. A small
network learns, on filmed clips, how a mouth moves with the sound; applied to unfilmed voices it makes training pairs
in which voice and mouth agree. What it cannot know about a mouth (measured: more than half of the variance) is
taken from real mouths: the residual that it leaves on a random filmed clip is added to its prediction, so that the
separator meets mouths that are as unpredictable as real ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lipsep.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.data.clips.clips import MOUTH_POINTS, TalkingClip, TalkingClips
from lipsep.data.clips.pace import change_pace
from lipsep.lips.shape import impersonal_mouth

N_MELS = 40
HOP = SAMPLES_PER_FRAME // 4  # 10 ms: four spectra per video frame
WINDOW = 400  # 25 ms
N_NETWORKS = 3  # differently initialised and fed: no two talkers move their lips alike for the same sound
RESIDUAL = (0.3, 1.0)  # some mouths follow the sound more closely than others


def mel_filters(n_mels: int = N_MELS, n_fft: int = 512, low_hz: float = 60.0, high_hz: float = 7_600.0) -> Tensor:
    """Triangular filters, equally spaced on the mel scale ``2595 log10(1 + f / 700)``.

    Shape: -> (n_mels, n_fft // 2 + 1).
    """
    mel = torch.linspace(
        2595 * np.log10(1 + low_hz / 700), 2595 * np.log10(1 + high_hz / 700), n_mels + 2, dtype=torch.float64
    )
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = torch.linspace(0, SAMPLE_RATE / 2, n_fft // 2 + 1, dtype=torch.float64)
    rising = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


class LogMel(nn.Module):
    """Log-mel spectrum, 100 per second, zero-mean over time, so that microphone and timbre matter less.

    Shape: voice (B, T) -> (B, 40, T // 640 * 4).
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(self, voice: Tensor) -> Tensor:
        n_samples = voice.shape[-1] // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
        spectrum = torch.stft(voice[:, :n_samples], 512, HOP, WINDOW, self.window, return_complex=True)[..., :-1]
        log_mel = torch.log(self.filters @ spectrum.abs().square() + 1e-6)  # (B, mel, 4 F)
        return (log_mel - log_mel.mean(-1, keepdim=True)) / 4


class SoundToMouth(nn.Module):
    """Log-mel spectrum -> mouth points relative to the talker's resting mouth.

    Four strided or dilated convolutions see +-0.3 s of sound around each video frame.

    Shape: voice (B, T) -> (B, T // 640, 20, 2).
    """

    def __init__(self, channels: int = 128):
        super().__init__()
        self.log_mel = LogMel()
        self.network = nn.Sequential(
            nn.Conv1d(N_MELS, channels, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(channels, channels, 8, stride=4, padding=2),  # 100 -> 25 per second
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Conv1d(channels, channels, 5, padding=2),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Conv1d(channels, channels, 5, padding=4, dilation=2),
            nn.GELU(),
            nn.Conv1d(channels, 2 * MOUTH_POINTS, 1),
        )

    def forward(self, voice: Tensor) -> Tensor:
        points = self.network(self.log_mel(voice))  # (B, 40, F)
        return points.transpose(1, 2).unflatten(-1, (MOUTH_POINTS, 2))  # (B, F, 20, 2)


def resting(mouth: np.ndarray) -> np.ndarray:
    """The talker's mean mouth over the clip: (F, 20, 2) -> (20, 2)."""
    return mouth.mean(0)


def fit(
    filmed: TalkingClips, n_steps: int = 400, batch: int = 32, segment_frames: int = 50, seed: int = 0
) -> tuple[SoundToMouth, float]:
    """Learn from filmed clips, at random pace and level so that other voices are not foreign.

    Returns:
        The network in eval mode, and the share of the mouth's variance that it explains on the last tenth of the
        clips, which it never saw.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = SoundToMouth()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=n_steps)
    n_fit = len(filmed) - max(1, len(filmed) // 10)
    network.train()
    for _ in range(n_steps):
        examples = [_random_segment(filmed[int(rng.integers(n_fit))], segment_frames, rng) for _ in range(batch)]
        voice = torch.from_numpy(np.stack([voice for voice, _ in examples]))
        mouth = torch.from_numpy(np.stack([mouth for _, mouth in examples]))
        loss = (network(voice) - mouth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    truth, error = 0.0, 0.0
    for index in range(n_fit, len(filmed)):
        clip = filmed[index]
        motion = clip.mouth - resting(clip.mouth)
        predicted = predict(network, clip.voice)
        truth += float(np.square(motion).sum())
        error += float(np.square(motion - (predicted - predicted.mean(0))).sum())
    return network, 1 - error / truth


@torch.no_grad()
def predict(network: SoundToMouth, voice: np.ndarray) -> np.ndarray:
    """Mouth points relative to rest for one voice: (T,) -> (T // 640, 20, 2)."""
    return network(torch.from_numpy(np.ascontiguousarray(voice, np.float32))[None])[0].numpy()


def film(networks: Sequence[SoundToMouth], voices: Iterator[tuple[str, str, np.ndarray]], filmed: TalkingClips, seed=0):
    """Yield a `TalkingClip` for each ``(name, talker, voice)``: the motion that one of the networks predicts, plus
    `RESIDUAL` times what that prediction leaves on random real clips."""
    rng = np.random.default_rng(seed)
    for name, talker, voice in voices:
        network = networks[int(rng.integers(len(networks)))]
        motion = predict(network, voice)  # (F, 20, 2)
        residual = np.empty_like(motion)
        start = 0
        while start < len(motion):
            clip = filmed[int(rng.integers(len(filmed)))]
            left = (clip.mouth - resting(clip.mouth) - predict(network, clip.voice))[: len(motion) - start]
            residual[start : start + len(left)] = left
            start += len(left)
        yield TalkingClip(name, talker, voice, impersonal_mouth(motion + rng.uniform(*RESIDUAL) * residual))


def _random_segment(clip: TalkingClip, n_frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    voice, mouth = change_pace(clip, float(rng.uniform(0.8, 1.3)), n_frames, rng)
    level = 10 ** (rng.uniform(-20, 10) / 20)
    return (voice * level).astype(np.float32), mouth - resting(clip.mouth)
