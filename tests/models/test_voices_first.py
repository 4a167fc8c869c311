"""Voices first: what is taken apart adds up, and lips give each voice to one face at most."""

from __future__ import annotations

import pytest
import torch

from lipsep.errors import ModelError
from lipsep.models import SeparationModel, create_model
from lipsep.models.voices_first import BandSplit, assignments


def small(n_src: int = 2) -> SeparationModel:
    torch.manual_seed(0)
    model = create_model("voices_first_test", n_src=n_src).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("n_samples", [64, 8_000, 8_017])
def test_voices_and_rest_add_up_to_the_mixture(n_samples: int) -> None:
    mixture = torch.randn(2, n_samples, generator=torch.Generator().manual_seed(n_samples))
    with torch.no_grad():
        parts = small().blind(mixture)
    assert parts.shape == (2, 4, n_samples)
    torch.testing.assert_close(parts.sum(1), mixture, rtol=1e-4, atol=1e-4)
    assert parts.std(1).mean() > 0.01  # they differ


@pytest.mark.parametrize("n_src", [2, 3])
def test_swapping_the_faces_swaps_the_voices(n_src: int) -> None:
    model, generator = small(n_src), torch.Generator().manual_seed(1)
    mixture, lips = torch.randn(2, 16_000, generator=generator), torch.randn(2, n_src, 25, 8, 8, generator=generator)
    order = torch.tensor([*range(1, n_src), 0])
    with torch.no_grad():
        voices, swapped = model(mixture, lips), model(mixture, lips[:, order])
    torch.testing.assert_close(swapped, voices[:, order], rtol=1e-4, atol=1e-5)


def test_no_voice_is_given_to_two_faces() -> None:
    model, generator = small(3), torch.Generator().manual_seed(2)
    spectra = torch.randn(4, 3, 33, 50, 2, generator=generator)
    lips = torch.randn(4, 3, 20, 8, 8, generator=generator)
    with torch.no_grad():
        chosen = model.choice(lips, torch.view_as_complex(spectra))
    assert chosen.shape == (4, 3, 3)
    assert (chosen >= 0).all()
    assert chosen.sum(1).max() < 1 + 1e-5  # all faces together have a voice once at most
    assert chosen.sum(2).max() < 1 + 1e-5  # a face has one voice at most
    assert chosen.sum(2).min() < 1 - 1e-3  # or none


def test_every_assignment_is_there_once() -> None:
    ways = assignments(2, 3)
    assert len(ways) == 13  # 3 * 2 with a voice each, 2 * 3 with one for one of them, 1 without any
    assert len({tuple(way.flatten().tolist()) for way in ways}) == 13
    assert len(assignments(1, 3)) == 4


def test_lips_that_say_more_for_a_voice_get_it_whole() -> None:
    """Certainty grows with the evidence: what is chosen tends to 0 or 1, and stays soft where nothing is known."""
    model = small()
    choices = model.choice.choices
    scores = torch.tensor([[[9.0, -9.0, -9.0], [-9.0, 9.0, -9.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    share = torch.einsum("ba,anv->bnv", torch.einsum("bnv,anv->ba", scores, choices).softmax(1), choices)
    torch.testing.assert_close(share[0], torch.eye(2, 3), atol=1e-3, rtol=0)
    assert share[1].std() < 1e-6


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
