"""Voices first: what is taken apart adds up, and lips give each voice to one face at most."""

from __future__ import annotations

import pytest
import torch

from lipsep.errors import ModelError
from lipsep.models import SeparationModel, create_model
from lipsep.models.voices_first import (
    LAGS,
    SEPARATED,
    BandSplit,
    agreement,
    assignments,
    shown_later,
    squared_errors,
)


def small() -> SeparationModel:
    torch.manual_seed(0)
    model = create_model("voices_first_test").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("n_samples", [64, 8_000, 8_017])
def test_voices_and_rest_add_up_to_the_mixture(n_samples: int) -> None:
    mixture = torch.randn(2, n_samples, generator=torch.Generator().manual_seed(n_samples))
    with torch.no_grad():
        parts = small().separator(mixture)
    assert parts.shape == (2, 4, n_samples)
    torch.testing.assert_close(parts.sum(1), mixture, rtol=1e-4, atol=1e-4)
    assert parts.std(1).mean() > 0.01  # they differ


def test_swapping_the_faces_swaps_the_voices() -> None:
    model, generator = small(), torch.Generator().manual_seed(1)
    mixture, lips = torch.randn(2, 16_000, generator=generator), torch.randn(2, 2, 25, 8, 8, generator=generator)
    with torch.no_grad():
        voices, swapped = model(mixture, lips), model(mixture, lips.flip(1))
    torch.testing.assert_close(swapped, voices.flip(1), rtol=1e-4, atol=1e-5)


def nearest(estimates: torch.Tensor, voices: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
    return choices[squared_errors(estimates, voices, choices).argmin(1)]


def test_each_face_gets_the_voice_that_is_nearest_and_no_voice_is_given_twice() -> None:
    generator = torch.Generator().manual_seed(2)
    voices = torch.randn(1, 3, 400, generator=generator)
    choices = assignments(2, 3)
    noise = 0.3 * torch.randn(1, 2, 400, generator=generator)
    chosen = nearest(voices[:, [2, 0]] + noise, voices, choices)
    assert chosen[0].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    both_alike = nearest(voices[:, [1, 1]] * torch.tensor([1.0, 0.6])[:, None], voices, choices)
    assert both_alike[0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]  # the better one has it, the other none
    silent = nearest(torch.stack([voices[0, 1], 1e-3 * voices[0, 2]])[None], voices, choices)
    assert silent[0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_what_is_heard_is_a_mean_of_the_two_networks_and_of_one_where_no_voice_is_given() -> None:
    model, generator = small(), torch.Generator().manual_seed(3)
    mixture, lips = torch.randn(1, 16_000, generator=generator), torch.randn(1, 2, 25, 8, 8, generator=generator)
    with torch.no_grad():
        voices = model.separator(mixture)[:, :-1]
        followed, chosen = (found[0] for found in model._follow(mixture, lips, voices))
        at_lags = [
            model.follower(mixture, shown_later(lips, torch.tensor([lag])))[0] for group in LAGS for lag in group
        ]
        assert min((followed - heard).abs().max() for heard in at_lags) < 1e-6
        assert torch.allclose(chosen.sum(1), torch.ones(2)) and (chosen[:, :-1].sum(0) <= 1 + 1e-5).all()
        for k, heard in enumerate(model(mixture, lips)[0]):
            own = chosen[k, :-1] @ voices[0] + chosen[k, -1] * followed[k]
            torch.testing.assert_close(heard, torch.lerp(followed[k], own, SEPARATED))


def talk(n_frames: int, seed: int) -> torch.Tensor:
    """How loud somebody is who speaks about four syllables a second: (n_frames,)."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 1, n_frames + 4, generator=random)
    return torch.nn.functional.avg_pool1d(noise, 5, 1)[0, 0]


def test_where_the_follower_does_not_know_whose_voice_it_is_the_lips_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    model, generator = small(), torch.Generator().manual_seed(4)
    loudness = torch.stack([talk(100, seed) for seed in (1, 2, 3)])  # of three voices, for 4 s
    noise = torch.randn(1, 3, 64_000, generator=generator)
    voices = noise * (loudness * 2).exp().repeat_interleave(640, 1)
    mixture = voices.sum(1)
    monkeypatch.setattr(model.follower, "forward", lambda sound, lips: sound.unsqueeze(1).expand(-1, 2, -1) / 3)
    for pair in ([0, 1], [1, 0], [2, 1]):
        openings = loudness[pair].unsqueeze(-1)  # (n, F, 1)
        monkeypatch.setattr(model.follower.video_encoder, "values", lambda _, openings=openings: openings)
        with torch.no_grad():
            _, chosen = model._follow(mixture, torch.zeros(1, 2, 100, 8, 8), voices)
        assert chosen[0, :, :-1].argmax(1).tolist() == pair and chosen[0, [0, 1], pair].min() > 0.7


@pytest.mark.parametrize("lag", [-4, -1, 0, 3, 5])
def test_lips_and_loudness_agree_most_at_the_lag_that_the_lips_have(lag: int) -> None:
    loudness = torch.stack([talk(100, 1), talk(100, 2)])
    openings = loudness.roll(lag, -1)  # lag > 0: seen later than heard
    fits = {d: agreement(openings[None], loudness[None], d)[0].diagonal().sum() for d in range(-5, 6)}
    assert max(fits, key=fits.get) == lag and fits[lag] > 1.95  # of 2, a correlation of 1 each


def test_lips_are_shown_as_they_would_be_without_their_lag() -> None:
    moments = torch.arange(6.0).expand(1, 1, 6)
    late = moments.clamp(min=2) - 2  # what is seen is two pictures old: 0 0 0 1 2 3
    shown = shown_later(
        torch.stack([late, moments], 1)[..., None, None].flatten(1, 2).repeat(2, 1, 1, 1, 1), torch.tensor([2, 0])
    )
    assert shown[0, 0].flatten().tolist() == [0, 1, 2, 3, 3, 3]
    assert shown[1, 1].flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_every_assignment_is_there_once() -> None:
    ways = assignments(2, 3)
    assert len(ways) == 13  # 3 * 2 with a voice each, 2 * 3 with one for one of them, 1 without any
    assert len({tuple(way.flatten().tolist()) for way in ways}) == 13
    assert len(assignments(1, 3)) == 4
    assert (ways.sum(2) == 1).all()


def test_bands_are_cut_and_joined_without_loss() -> None:
    split = BandSplit((1, 2, 5, 3))
    spectrum = torch.randn(7, 2, 11, 3)
    bands = split.split(spectrum)
    assert bands.shape == (7, 2, 4, 15)
    assert torch.equal(split.join(bands.unflatten(-1, (5, 3))), spectrum)


def test_impossible_sizes_are_named() -> None:
    with pytest.raises(ModelError, match=r"bands must hold n_fft / 2 \+ 1 = 33 bins"):
        create_model("voices_first_test", bands=(1, 2))
    with pytest.raises(ModelError, match="at least 1"):
        create_model("voices_first_test", n_voices=0)
