"""Voices at the rate and with the channels of the recording: nothing lost below 8 kHz, everything adds up."""

from __future__ import annotations

import tracemalloc

import av
import numpy as np
import pytest
import soundfile
import torch
from clips import make_clip
from scipy.signal import butter, resample_poly, sosfiltfilt

from lipsep.errors import OptionError
from lipsep.faces.tracks import FaceTrack
from lipsep.losses import si_snr
from lipsep.media.reading import load_audio
from lipsep.models import SeparationModel
from lipsep.results.fullband import full_band
from lipsep.separator import Separator

RATE = 48_000  # Hz
SECONDS = 3


def talker(seed: int, pitch_hz: float) -> np.ndarray:
    """Something like speech at 48 kHz: syllables of a buzzing voice and of hissing up to 16 kHz, (T,) float64."""
    rng, time_s = np.random.default_rng(seed), np.arange(SECONDS * RATE) / RATE
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time_s))) / RATE
    buzz = sum(np.sin(k * phase + k * k) / k for k in range(1, int(5_000 / pitch_hz)))
    hiss = sosfiltfilt(butter(4, [3_500, 16_000], "bandpass", fs=RATE, output="sos"), rng.normal(0, 1, len(time_s)))
    turns = np.repeat(rng.integers(0, 3, 8 * SECONDS), RATE // 8)  # silent, buzzing, hissing
    loudness = [np.convolve(turns == kind, np.hanning(RATE // 50) / (RATE / 100), mode="same") for kind in (1, 2)]
    return 0.1 * (loudness[0] * buzz + loudness[1] * hiss)


def snr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()))


def si_snr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(si_snr(torch.from_numpy(np.array(got))[None], torch.from_numpy(np.array(wanted))[None]))


def below_8_khz(signal: np.ndarray) -> np.ndarray:
    """(..., T) at 48 kHz -> at 16 kHz."""
    return resample_poly(signal, 1, 3, axis=-1)


@pytest.fixture(scope="module")
def recording() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Clean voices (2, 2 channels, T) panned apart, with a stereo noise (2, T) beside them; and voices and residual as
    a model of 10 dB would give them at 16 kHz."""
    voices = np.stack([talker(0, 110.0), talker(1, 190.0)])
    panned = np.stack([voices[0] * [[1.0], [0.5]], voices[1] * [[0.4], [1.0]]])
    noise = 0.003 * np.random.default_rng(2).normal(0, 1, panned.shape[1:])
    clean = below_8_khz(panned.mean(1))  # (2, T / 3)
    leak = 10 ** (-10 / 20)
    separated = [(1 - leak) * clean[k] + leak * clean[1 - k] for k in (0, 1)]
    residual = below_8_khz((panned.sum(0) + noise).mean(0)) - sum(separated)
    return panned, noise, [s.astype(np.float32) for s in (*separated, residual)]


def widen(original: np.ndarray, signals: list[np.ndarray], n_piece: int = 1024) -> np.ndarray:
    pieces = (original[:, k : k + n_piece].astype(np.float32) for k in range(0, original.shape[1], n_piece))
    reads = [lambda start, stop, signal=signal: signal[start:stop] for signal in signals]
    return np.concatenate(list(full_band(pieces, RATE, reads)), axis=-1)


def test_below_8_khz_nothing_is_worse_and_above_there_is_a_voice(recording):
    panned, noise, signals = recording
    original = panned.sum(0) + noise
    wide = widen(original, signals)
    assert wide.shape == (3, *original.shape)
    np.testing.assert_allclose(wide.sum(0), original, atol=1e-6)
    for k, clean in enumerate(panned):
        narrow, middle = signals[k], wide[k].mean(0)
        beside = snr_db(narrow, below_8_khz(middle))
        clean_16k = below_8_khz(clean.mean(0))
        before, after = si_snr_db(clean_16k, narrow), si_snr_db(clean_16k, below_8_khz(middle))
        loud = int(np.argmax(np.square(clean).sum(1)))  # the channel where this voice is at home
        mixed, full = (si_snr_db(clean[loud], each) for each in (original[loud], wide[k, loud]))
        risen = si_snr_db(clean[loud], resample_poly(narrow, 3, 1))
        print(
            f"voice {k + 1}: {beside:.1f} dB beside the 16 kHz voice; "
            f"SI-SNR below 8 kHz {before:.2f} -> {after:.2f} dB; "
            f"at 48 kHz {mixed:.2f} dB in the mixture, {risen:.2f} dB as 16 kHz, {full:.2f} dB"
        )
        assert beside > 25
        assert after > before - 0.1
        assert full > risen and full > mixed + 5


def test_mono_is_the_16_khz_voice_with_what_is_above_it(recording):
    panned, noise, signals = recording
    wide = widen((panned.sum(0) + noise).mean(0)[None], signals)
    low = butter(8, 6_500, fs=RATE, output="sos")
    for k in (0, 1):
        assert snr_db(sosfiltfilt(low, resample_poly(signals[k], 3, 1)), sosfiltfilt(low, wide[k, 0])) > 40


@pytest.mark.parametrize("n_piece", [333, 100_000])
def test_the_result_does_not_depend_on_the_pieces(recording, n_piece):
    panned, _, signals = recording
    np.testing.assert_allclose(widen(panned.sum(0), signals), widen(panned.sum(0), signals, n_piece), atol=1e-6)


def test_memory_does_not_grow_with_the_length(recording):
    """Ten minutes in no more than a minute needs."""
    _, _, (signal, *_) = recording

    def peak(n_pieces: int) -> int:
        tracemalloc.start()
        piece = np.full((1, 4_800), 0.1, np.float32)
        reads = [lambda start, stop: np.resize(signal, min(stop, n_pieces * 1_600) - start)[: max(0, stop - start)]] * 2
        n_samples = sum(b.shape[-1] for b in full_band((piece for _ in range(n_pieces)), RATE, reads))
        assert n_samples == n_pieces * 4_800
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(300) < 1.2 * peak(60)


class Share(SeparationModel):
    """Gives everyone the same share of the mixture."""

    def __init__(self) -> None:
        super().__init__(None, lip_recipe="mesh_32", keeps_level=True)

    def forward(self, mixture, lips):
        return 0.25 * mixture[:, None]


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1), (8_000, 2)])
def test_files_come_back_at_the_rate_and_with_the_channels_of_the_input(tmp_path, monkeypatch, rate, channels):
    source = make_clip(tmp_path / "clip.mkv", seconds=2, audio_codec="flac", audio_rate=rate, channels=channels)
    points = np.random.default_rng(0).uniform(10, 50, (50, 68, 2)).astype(np.float32)
    box, face = np.tile(np.float32([8, 8, 56, 40]), (50, 1)), np.zeros((96, 96, 3), np.uint8)
    tracks = [FaceTrack(k, np.ones(50, bool), box, points, face) for k in (1, 2)]
    monkeypatch.setattr("lipsep.results.people.find_faces", lambda *_, **__: tracks)
    separator = Separator(Share(), "cpu")
    result = separator(source, tmp_path / "out", rate="original")
    assert result.sample_rate == rate and result.report["settings"]["rate"] == "original"
    parts = []
    for name in ("speaker_1", "speaker_2", "residual"):
        signal, found = soundfile.read(tmp_path / "out" / f"{name}.wav", always_2d=True)
        assert (found, signal.shape[1]) == (rate, channels)
        parts.append(signal)
    original = soundfile_of(source)
    np.testing.assert_allclose(sum(parts), original.T, atol=2 / 32768)
    np.testing.assert_allclose(parts[0], 0.25 * original.T, atol=0.02)
    in_memory = separator(source, rate="original")
    assert in_memory.voices.shape == (2, channels, len(original.T)) and in_memory.residual.shape == original.shape
    np.testing.assert_allclose(in_memory.voices[1].T, parts[1], atol=1 / 32768)
    heard = load_audio(tmp_path / "out" / "speaker_1.mp4")  # the video has the same sound
    assert np.corrcoef(heard[:30_000], load_audio(source)[:30_000])[0, 1] > 0.95


def soundfile_of(path) -> np.ndarray:
    """The sound of a film as FFmpeg decodes it: (n_channels, n)."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T for frame in container.decode(audio=0)]
    samples = np.concatenate(frames, axis=1)
    return samples / 2.0 ** (8 * samples.itemsize - 1)


def test_another_rate_is_refused_with_the_choices(tmp_path):
    with pytest.raises(OptionError, match="'16k' or 'original'"):
        Separator(Share(), "cpu")(tmp_path / "a.mp4", rate="48000")
