"""Windows: any length, any number of people, nothing lost, nothing shifted, silence where nobody is."""

from __future__ import annotations

import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from lipsep.constants import FPS, SAMPLES_PER_FRAME
from lipsep.errors import ModelError
from lipsep.models.base import face_groups
from lipsep.separation.levels import match_levels
from lipsep.separation.presence import FADE_FRAMES, presence_gate
from lipsep.separation.windows import crossfade, separate_windows, window_starts


class Faces:
    """Lip pictures of one person, all of one grey value per frame."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.n_frames = np.asarray(values, np.float32), len(values)

    def read(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= self.n_frames
        return np.tile(self.values[start:stop, None, None], (1, 2, 2))


class LipScaled(nn.Module):
    """The mixture times the grey value of the lips, frame by frame: shows at once if lips and sound are misaligned."""

    faces_at_once, n_faces, keeps_level, needs_faces = False, 1, True, False

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, mixture: torch.Tensor, lips: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(mixture))
        grey = lips.mean((-2, -1)).repeat_interleave(SAMPLES_PER_FRAME, -1)  # (B, T) or (B, n_src, T)
        return mixture[:, None] * (grey if self.faces_at_once else grey[:, None])


class Smoother(LipScaled):
    """A linear-phase low-pass of 129 taps: needs 64 samples of context on either side, as real models need context."""

    def forward(self, mixture: torch.Tensor, lips: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv1d(mixture[:, None], torch.hann_window(129)[None, None] / 64, padding=64)


def run(model, mixture, lips, present=None, **options) -> np.ndarray:
    """All blocks joined; checks on the way that they follow each other without gap or overlap."""
    blocks, position = [], 0
    for start, block in separate_windows(model, mixture, len(mixture), lips, present, **options):
        assert start == position and block.dtype == np.float32 and block.shape[1] > 0
        position += block.shape[1]
        blocks.append(block)
    assert position == len(mixture)
    return np.concatenate(blocks, axis=1)


def noise(seed: int, n_samples: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32)


@pytest.mark.parametrize("seed", range(40))
def test_any_length_any_window_any_number_of_people_comes_out_whole_and_in_place(seed):
    rng = np.random.default_rng(seed)
    n_samples, window = int(rng.integers(1, 40 * SAMPLES_PER_FRAME)), int(rng.integers(1, 15))
    overlap = int(rng.integers(0, window))
    n_frames = -(-n_samples // SAMPLES_PER_FRAME)
    grey = rng.uniform(-1, 1, (int(rng.integers(1, 6)), n_frames)).astype(np.float32)
    mixture = noise(seed, n_samples)
    voices = run(
        LipScaled(),
        mixture,
        [Faces(g) for g in grey],
        window_s=window / FPS,
        overlap_s=overlap / FPS,
        batch=int(rng.integers(1, 9)),
    )
    expected = mixture * grey.repeat(SAMPLES_PER_FRAME, 1)[:, :n_samples]
    np.testing.assert_allclose(voices, expected, atol=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_weights_never_sum_to_zero(seed):
    rng = np.random.default_rng(seed)
    n_frames, window = int(rng.integers(1, 60)), int(rng.integers(1, 20))
    overlap = int(rng.integers(0, window))
    starts = window_starts(n_frames, window, overlap)
    weight = crossfade(window * SAMPLES_PER_FRAME, overlap * SAMPLES_PER_FRAME)
    assert weight.min() > 0
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert max(np.diff(starts), default=0) <= window - overlap  # no gap, and never less overlap than asked for
    assert n_frames <= window or starts[-1] + window == n_frames  # moved back, not filled up


def test_neighbouring_windows_fade_into_each_other_at_constant_gain():
    fade = crossfade(1000, 300)
    np.testing.assert_allclose(fade[-300:] + fade[:300], 1, atol=1e-6)


def test_windowed_equals_unwindowed_away_from_the_ends():
    mixture = noise(0, 16_000 * 10 + 123)
    whole = run(Smoother(), mixture, [Faces(np.zeros(251))], window_s=20)
    pieces = run(Smoother(), mixture, [Faces(np.zeros(251))], window_s=2, overlap_s=0.5)
    np.testing.assert_allclose(pieces[:, 64:-64], whole[:, 64:-64], atol=1e-3)  # -60 dB of the signal
    assert np.abs(whole - run(Smoother(), mixture, [Faces(np.zeros(251))], window_s=2, overlap_s=0)).max() > 0.1


def test_a_short_file_runs_in_one_piece():
    model = LipScaled()
    run(model, noise(0, 16_000 * 4), [Faces(np.ones(100))])
    assert model.batches == [1]


def test_sound_longer_than_the_video_gets_neutral_lips_and_video_longer_than_sound_is_ignored():
    mixture = noise(0, 30 * SAMPLES_PER_FRAME)
    voices = run(LipScaled(), mixture, [Faces(np.ones(7)), Faces(np.ones(99))], window_s=0.4, overlap_s=0.12)
    np.testing.assert_allclose(voices[0, : 7 * SAMPLES_PER_FRAME], mixture[: 7 * SAMPLES_PER_FRAME], atol=1e-6)
    assert not voices[0, 7 * SAMPLES_PER_FRAME :].any()
    np.testing.assert_allclose(voices[1], mixture, atol=1e-6)


def test_absent_people_are_silent_and_cost_nothing():
    model, n_frames = LipScaled(), 500
    mixture = noise(1, n_frames * SAMPLES_PER_FRAME)
    late = np.arange(n_frames) >= 400  # arrives after 16 s
    never = np.zeros(n_frames, bool)
    faces = [Faces(np.ones(n_frames))] * 2
    voices = run(model, mixture, faces, [late, never], window_s=4, overlap_s=1)
    first = 400 * SAMPLES_PER_FRAME
    np.testing.assert_allclose(voices[0, first:], mixture[first:], atol=1e-6)
    assert not voices[0, : first - FADE_FRAMES * SAMPLES_PER_FRAME].any() and not voices[1].any()
    assert sum(model.batches) == 3  # of 7 windows x 2 people: those that begin at 12, 15 and 16 s


def test_keep_offscreen_hears_everyone_always():
    mixture = noise(1, 100 * SAMPLES_PER_FRAME)
    np.testing.assert_allclose(
        run(LipScaled(), mixture, [Faces(np.ones(100))], None, window_s=1, overlap_s=0)[0], mixture, atol=1e-6
    )


def test_a_voice_opens_and_closes_without_a_click():
    present = np.zeros(100, bool)
    present[40:60] = True
    voice = run(LipScaled(), np.ones(64_000, np.float32), [Faces(np.ones(100))], [present])[0]
    assert np.abs(np.diff(voice)).max() < 1e-3  # a hard gate would jump by 1
    np.testing.assert_allclose(voice[40 * 640 : 60 * 640], 1, atol=1e-6)
    assert voice[38 * 640 : 40 * 640].min() > 0 and not voice[: 38 * 640].any() and not voice[62 * 640 :].any()


def test_gate_of_a_track_shorter_than_the_sound_stays_closed_afterwards():
    gate = presence_gate(np.array([True]), 10)
    assert gate[:2].tolist() == [1, 1] and not gate[3:].any()


@pytest.mark.parametrize("n_people", [1, 2, 3, 4, 5])
def test_batches_are_filled_over_people_and_windows(n_people):
    model = LipScaled()
    run(model, noise(0, 16_000 * 25), [Faces(np.ones(625))] * n_people, window_s=4, overlap_s=1, batch=4)
    n_passes = 8 * n_people
    assert sum(model.batches) == n_passes and len(model.batches) == -(-n_passes // 4)


@pytest.mark.parametrize(("n_people", "n_faces", "n_passes"), [(3, 3, 1), (1, 2, 1), (3, 2, 2), (5, 3, 2), (2, 4, 1)])
def test_models_that_take_several_faces_at_once_hear_everyone_once(n_people: int, n_faces: int, n_passes: int):
    model = LipScaled()
    model.faces_at_once, model.n_faces = True, n_faces
    mixture = noise(3, 16_000 * 9)
    grey = np.random.default_rng(0).uniform(-1, 1, (n_people, 225)).astype(np.float32)
    voices = run(model, mixture, [Faces(g) for g in grey], window_s=2, overlap_s=0.4, batch=2)
    np.testing.assert_allclose(voices, mixture * grey.repeat(640, 1), atol=2e-6)
    assert sum(model.batches) == n_passes * len(window_starts(225, 50, 10))


def test_only_those_who_are_there_take_a_place_among_the_faces():
    model = LipScaled()
    model.faces_at_once, model.n_faces = True, 2
    mixture, present = noise(3, 16_000 * 6), np.zeros((3, 150), bool)
    present[0, :70], present[1, 60:], present[2] = True, True, True
    faces = [Faces(np.full(150, k)) for k in (1, 2, 3)]
    voices = run(model, mixture, faces, list(present), window_s=1, overlap_s=0)
    np.testing.assert_allclose(voices[2], 3 * mixture, atol=4e-6)
    np.testing.assert_allclose(voices[0, : 70 * 640], mixture[: 70 * 640], atol=2e-6)
    np.testing.assert_allclose(voices[1, 60 * 640 :], 2 * mixture[60 * 640 :], atol=3e-6)
    assert sum(model.batches) == 7  # three people are there in one of six windows, and take two passes


class FaceScaled(LipScaled):
    """The same, times the grey value of the picture of the face."""

    needs_faces = True

    def forward(self, mixture: torch.Tensor, lips: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        return super().forward(mixture, lips) * faces.mean((-3, -2, -1)).view(len(mixture), -1, 1)


@pytest.mark.parametrize("n_faces", [1, 2])
def test_each_voice_is_asked_for_with_its_own_face_as_well_as_its_lips(n_faces: int):
    model, mixture = FaceScaled(), noise(4, 16_000 * 5)
    model.faces_at_once, model.n_faces = n_faces > 1, n_faces
    lips = [Faces(np.full(125, k)) for k in (1, 2, 3)]
    pictures = [np.full((3, 8, 8), k, np.float32) for k in (5, 7, 11)]
    voices = run(model, mixture, lips, faces=pictures, window_s=2, overlap_s=0.4, batch=2)
    np.testing.assert_allclose(voices, mixture * np.array([[5], [14], [33]]), rtol=1e-5, atol=1e-4)
    with pytest.raises(ModelError, match="picture of each person's face"):
        run(model, mixture, lips)


def test_groups_of_faces_hear_everyone_and_leave_no_place_empty_while_there_are_people():
    assert face_groups([0, 1, 2, 3], 2) == [[0, 1], [2, 3]]
    assert face_groups([4, 5, 6], 2) == [[4, 5], [5, 6]]
    assert face_groups([7], 3) == [[7, None, None]]
    assert face_groups([0, 2], 1) == [[0], [2]]
    assert face_groups([], 2) == []


class Meeting(LipScaled):
    """A pass ends when another one has begun too; notes how many threads of PyTorch each may use."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting, self.n_threads = threading.Barrier(2), []

    def forward(self, mixture, lips):
        self.meeting.wait(timeout=20)
        self.n_threads.append(torch.get_num_threads())
        return super().forward(mixture, lips)


def test_workers_pass_windows_side_by_side_and_share_the_threads():
    mixture, faces = noise(3, 16_000 * 11), [Faces(np.linspace(0, 1, 275)), Faces(np.linspace(1, -1, 275))]
    alone = run(LipScaled(), mixture, faces, window_s=2, overlap_s=0.4, batch=1)
    model, n_threads = Meeting(), torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        together = run(model, mixture, faces, window_s=2, overlap_s=0.4, batch=2, workers=2)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_array_equal(together, alone)
    assert model.batches == [1] * 14 and set(model.n_threads) == {2}


def test_out_of_memory_among_workers_goes_on_with_fewer_of_them():
    class OneAtATime(LipScaled):
        busy = threading.Lock()

        def forward(self, mixture, lips):
            if not self.busy.acquire(blocking=False):
                raise MemoryError
            time.sleep(0.02)
            self.busy.release()
            return super().forward(mixture, lips)

    mixture, told = noise(0, 16_000 * 8), []
    voices = run(OneAtATime(), mixture, [Faces(np.ones(200))], batch=4, workers=4, window_s=2, warn=told.append)
    np.testing.assert_allclose(voices[0], mixture, atol=2e-6)
    assert "going on with 1" in told[-1]


class Hungry(LipScaled):
    """Runs out of memory above a batch size."""

    def __init__(self, limit: int, error: Exception) -> None:
        super().__init__()
        self.limit, self.error = limit, error

    def forward(self, mixture, lips):
        if len(mixture) > self.limit:
            raise self.error
        return super().forward(mixture, lips)


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "mps", "cpu", "python"])
def test_out_of_memory_halves_the_batch_says_so_and_loses_nothing(error):
    mixture, told = noise(0, 16_000 * 20), []
    model = Hungry(2, error)
    voices = run(model, mixture, [Faces(np.ones(500))], window_s=2, overlap_s=0.4, batch=8, warn=told.append)
    np.testing.assert_allclose(voices[0], mixture, atol=2e-6)
    assert len(told) == 2 and "8 windows" in told[0] and "going on with 2" in told[1]
    assert max(model.batches) == 2


def test_out_of_memory_even_for_one_window_is_one_clear_line():
    with pytest.raises(ModelError, match=r"single window of 2 s.*smaller model") as caught:
        run(
            Hungry(0, OUT_OF_MEMORY[0]),
            noise(0, 64_000),
            [Faces(np.ones(100))],
            window_s=2,
            batch=4,
            warn=lambda _: None,
        )
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_model_are_not_taken_for_lack_of_memory():
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(Hungry(0, RuntimeError("shape mismatch")), noise(0, 64_000), [Faces(np.ones(100))])


class Unlevelled(LipScaled):
    """Trained with a scale-invariant loss: the right voice (told by the lips' sign) at an absurd level."""

    keeps_level = False

    def forward(self, mixture, lips):
        low = nn.functional.avg_pool1d(mixture[:, None], 9, 1, 4, count_include_pad=True)
        positive = lips.mean((1, 2, 3)) > 0
        return torch.where(positive[:, None, None], 1000 * low, 0.001 * (mixture[:, None] - low))


def test_levels_of_a_scale_invariant_model_follow_the_mixture():
    mixture = noise(5, 16_000 * 12)
    voices = run(Unlevelled(), mixture, [Faces(np.ones(300)), Faces(-np.ones(300))], window_s=3, overlap_s=1)
    assert np.sum((mixture - voices.sum(0)) ** 2) < 1e-4 * np.sum(mixture**2)


def test_a_scale_invariant_model_that_is_upside_down_is_turned_up_again():
    """Its loss cannot tell the two apart; non-negative gains alone would make everybody silent."""

    class UpsideDown(Unlevelled):
        def forward(self, mixture, lips):
            return -super().forward(mixture, lips)

    mixture, faces = noise(5, 16_000 * 12), [Faces(np.ones(300)), Faces(-np.ones(300))]
    np.testing.assert_allclose(
        run(UpsideDown(), mixture, faces, window_s=3), run(Unlevelled(), mixture, faces, window_s=3), atol=1e-5
    )


def test_levels_are_never_negative_and_a_silent_estimate_stays_silent():
    mixture = noise(0, 8000)
    gains = match_levels(np.stack([mixture * 5, -mixture, np.zeros_like(mixture)]), mixture)
    np.testing.assert_allclose(gains, [0.2, 0, 0], atol=1e-3)


def test_two_alike_estimates_share_the_mixture_instead_of_exploding():
    mixture = noise(0, 8000)
    gains = match_levels(np.stack([mixture + 1e-6 * noise(1, 8000), mixture + 1e-6 * noise(2, 8000)]), mixture)
    np.testing.assert_allclose(gains, [0.5, 0.5], atol=0.01)


def test_memory_does_not_grow_with_the_length():
    def peak(minutes: int) -> int:
        tracemalloc.start()
        n_frames = minutes * 60 * FPS
        stream = separate_windows(
            LipScaled(),
            lambda start, stop: np.ones(stop - start, np.float32),
            n_frames * SAMPLES_PER_FRAME,
            [Faces(np.ones(n_frames))] * 2,
            [np.ones(n_frames, bool)] * 2,
        )
        for _ in stream:
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(6) < peak(1) + 2**20  # five minutes of two voices would be 38 MB


def test_progress_reaches_the_end():
    calls = []
    run(LipScaled(), noise(0, 160_000), [Faces(np.ones(250))], hook=lambda *call: calls.append(call))
    assert [c[1] for c in calls] == [1, 2, 3] and {c[0] for c in calls} == {"separate"} and calls[-1][2] == 3


@pytest.mark.parametrize(
    "options", [{"window_s": 0}, {"overlap_s": 4.0}, {"overlap_s": -1}, {"batch": 0}, {"workers": 0}]
)
def test_impossible_settings_are_refused_before_anything_runs(options):
    with pytest.raises(ModelError, match="needs"):
        separate_windows(LipScaled(), noise(0, 640), 640, [Faces(np.ones(1))], **options)


def test_a_model_that_breaks_its_contract_is_named():
    class Short(LipScaled):
        def forward(self, mixture, lips):
            return mixture[:, None, :-1]

    class Broken(LipScaled):
        def forward(self, mixture, lips):
            return mixture[:, None] * float("nan")

    for model, message in (Short(), "Short returned shape"), (Broken(), "not finite"):
        with pytest.raises(ModelError, match=message):
            run(model, noise(0, 6400), [Faces(np.ones(10))])
