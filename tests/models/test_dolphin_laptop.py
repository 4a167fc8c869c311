"""Dolphin with all faces at once, and the lip reader that sees the opening alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lipsep.data.mixing.mixing import MixingConfig, Mixtures
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.encoders import create_encoder
from lipsep.errors import ModelError
from lipsep.lips.drawing import write_mouth
from lipsep.lips.recipes import lip_recipe, normalise_picture
from lipsep.lips.shape import INNER_PAIRS, RESTING_MOUTH
from lipsep.models import SeparationModel, create_model

POINTS = lip_recipe("points_8")


def together(n_src: int = 2) -> SeparationModel:
    torch.manual_seed(0)
    sizes = {"audio_channels": 32, "channels": 32, "n_heads": 2, "visual_channels": 32, "large_kernel": 9}
    model = create_model("dolphin_laptop_together", n_src=n_src, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def talking(n_frames: int, seed: int, size: float = 0.01) -> np.ndarray:
    """Points of a mouth that opens and closes: (F, 20, 2)."""
    rng = np.random.default_rng(seed)
    gap = np.abs(np.convolve(rng.normal(0, size, n_frames + 4), np.ones(5), "valid")).astype(np.float32)
    points = np.tile(RESTING_MOUTH, (n_frames, 1, 1))
    for below in [below for _, below in INNER_PAIRS] + [8, 9, 10]:
        points[:, below, 1] += gap
    return points


def lips_of(points: np.ndarray) -> torch.Tensor:
    """(F, 20, 2) -> (1, F, 8, 8)"""
    return torch.from_numpy(normalise_picture(write_mouth(points)))[None]


@pytest.mark.parametrize("n_src", [2, 3])
def test_swapping_the_faces_swaps_the_voices(n_src: int) -> None:
    model, generator = together(n_src), torch.Generator().manual_seed(1)
    mixture = torch.randn(2, 12_801, generator=generator)
    lips = torch.randn(2, n_src, 20, 8, 8, generator=generator)
    order = torch.randperm(n_src, generator=generator).flip(0)
    with torch.no_grad():
        voices, swapped = model(mixture, lips), model(mixture, lips[:, order])
    assert voices.shape == (2, n_src, 12_801)
    torch.testing.assert_close(swapped, voices[:, order], rtol=1e-4, atol=1e-5)
    assert (voices[:, 0] - voices[:, 1]).abs().max() > 1e-3


def test_every_voice_depends_on_the_rivals_lips() -> None:
    model, mixture, lips = together(), torch.randn(1, 12_800), torch.randn(1, 2, 20, 8, 8)
    other = lips.clone()
    other[:, 1] = torch.randn(1, 20, 8, 8)
    with torch.no_grad():
        assert (model(mixture, lips)[:, 0] - model(mixture, other)[:, 0]).abs().max() > 1e-4


def test_the_faces_share_out_no_more_than_the_mixture() -> None:
    """Masks and the rest add up to one: with nothing left for the rest, the voices add up to the mixture decoded."""
    model, mixture, lips = together(), torch.randn(1, 12_800), torch.randn(1, 2, 20, 8, 8)
    with torch.no_grad():
        model.output_layer.rest.weight.zero_()
        model.output_layer.rest.bias.fill_(-50.0)
        level = model._level(mixture)
        whole = level * model.audio_decoder(model.audio_encoder(mixture / level))
        torch.testing.assert_close(model(mixture, lips).sum(1), whole, rtol=1e-3, atol=1e-4)
        model.output_layer.rest.bias.fill_(50.0)
        assert model(mixture, lips).abs().max() < 1e-6


def test_faces_at_once_need_masks() -> None:
    with pytest.raises(ModelError, match="masking=True"):
        create_model("dolphin_laptop_together", masking=False)


def test_the_opening_is_seen_whoever_opens_the_mouth() -> None:
    """Another mouth, elsewhere, of another width, that opens twice as far, gives the same."""
    encoder, points = create_encoder("mouth_opening").eval(), talking(60, seed=3)
    stranger = RESTING_MOUTH + 2 * (points - RESTING_MOUTH)
    stranger[..., 0] = 0.5 + 0.9 * (stranger[..., 0] - 0.5) + 0.02
    stranger[..., 1] += 0.01
    mine, theirs = (encoder.values(lips_of(each))[0] for each in (points, stranger))
    assert np.corrcoef(mine[:, 0], theirs[:, 0])[0, 1] > 0.995
    assert 0.8 < mine[:, 0].std() / theirs[:, 0].std() < 1.0
    assert np.corrcoef(mine[:, 0], points[:, 18, 1])[0, 1] > 0.99


def test_a_mouth_at_rest_is_not_made_into_a_talking_one() -> None:
    encoder = create_encoder("mouth_opening")
    still = np.tile(RESTING_MOUTH, (60, 1, 1)) + np.random.default_rng(0).normal(0, 0.001, (60, 20, 2)).astype("f4")
    assert encoder.values(lips_of(still))[..., :2].std() < 0.2
    assert encoder.values(lips_of(talking(60, seed=0)))[..., :2].std() > 0.85


def test_frames_without_a_mouth_do_not_count() -> None:
    encoder, points = create_encoder("mouth_opening"), talking(60, seed=5)
    lips = lips_of(points)
    lips[:, 40:] = 0
    values, alone = encoder.values(lips), encoder.values(lips_of(points[:40]))
    torch.testing.assert_close(values[:, :40], alone)
    assert not values[:, 40:].any() and not encoder.values(torch.zeros(1, 60, 8, 8)).any()


def test_a_recipe_may_hide_one_of_the_mouths() -> None:
    clips = synthetic_corpus(3, 2, 3.0, seed=0)
    plain = MixingConfig(filmed_pairs=1.0, dropped=0.0)

    def shown(hidden: float) -> list[int]:
        mixtures = Mixtures(clips, None, None, replace(plain, hidden=hidden), POINTS, n_items=20, seed=0)
        return [int(lips.flatten(1).any(1).sum()) for _, lips, _ in mixtures]

    assert set(shown(0.0)) == {2} and set(shown(1.0)) == {1} and set(shown(0.5)) == {1, 2}


def test_a_recipe_may_show_people_who_are_silent() -> None:
    """Somebody whose lips move, or rest, and whose voice is not in the mixture."""
    clips = synthetic_corpus(3, 2, 3.0, seed=0)
    plain = MixingConfig(filmed_pairs=1.0, mouths=None, random_crop=False, target_absent=1.0)
    for resting in (0.0, 1.0):
        mixtures = Mixtures(clips, None, None, replace(plain, resting=resting), POINTS, n_items=5, seed=0)
        for _, lips, sources in mixtures:
            assert sources[0].any() and not sources[1].any()
            assert (lips.std(1).amax((1, 2)) > 0).tolist() == [True, not resting]
