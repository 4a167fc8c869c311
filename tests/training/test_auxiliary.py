"""Dolphin's auxiliary branch and the loss it enters, from the equations of appendix D (Eq. 21-28)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lipsep.errors import ModelError
from lipsep.losses import magnitude_si_snr, si_snr
from lipsep.models import create_model
from lipsep.training.auxiliary import AuxiliaryBranch, auxiliary_weight
from lipsep.training.recipe import TrainingPart
from lipsep.training.separation import SeparationTraining

CALM = {"video_layers": ("compress_space", "compress_space"), "dropout": 0.0, "visual_dropout": 0.0}


def listened(model, lips):
    """A branch, and what it heard by hooks of this test's own: X (B, N, T) and D3 (B n_src, C, T' / 2^(Q - 1))."""
    branch, heard = AuxiliaryBranch(model), {}
    model.audio_encoder.register_forward_hook(lambda *call: heard.update(x=call[2].mT))
    model.separator.decoder[0].register_forward_hook(lambda *call: heard.update(d3=call[2].mT))
    model(torch.randn(2, 6_400), lips)
    return branch, heard


@pytest.mark.parametrize(
    ("name", "settings", "faces", "lip_size"),
    [("dolphin_test", CALM, 1, 32), ("dolphin_laptop_together", {}, 2, 8)],
)
def test_d3_is_stretched_convolved_rectified_multiplied_with_x_and_decoded(name, settings, faces, lip_size):
    torch.manual_seed(0)
    model = create_model(name, **settings)
    lips = torch.randn(2, faces, 10, lip_size, lip_size)
    branch, heard = listened(model, lips if faces > 1 else lips[:, 0])
    early = branch()
    x, d3 = heard["x"].repeat_interleave(faces, 0), heard["d3"]
    stretched = F.interpolate(d3, scale_factor=2, mode="nearest")[..., : x.shape[-1]]  # Q = 2
    mapped = F.relu(F.conv1d(stretched, branch.conv.weight.unsqueeze(-1), branch.conv.bias))
    expected = F.conv_transpose1d(mapped * x, model.audio_decoder.conv.weight, stride=model.config.audio_stride)
    assert early.shape == (2 * faces, 1, 6_400)
    torch.testing.assert_close(early, expected, atol=1e-5, rtol=1e-4)


def test_it_teaches_the_first_decoder_layer_and_the_filter_banks_and_adds_nothing_to_the_model():
    model = create_model("dolphin_test", **CALM)
    keys = set(model.state_dict())
    branch, _ = listened(model, torch.randn(2, 10, 32, 32))
    branch().square().mean().backward()
    taught = (
        model.separator.decoder[0].fusion.fine[0].k,
        model.audio_decoder.conv.weight,
        model.audio_encoder.conv.weight,
    )
    assert all(weight.grad is not None and weight.grad.any() for weight in taught)
    assert model.separator.decoder[1].fusion.fine[0].k.grad is None
    assert set(model.state_dict()) == keys  # nothing of it is exported
    assert set(branch.state_dict()) == {"conv.weight", "conv.bias"}  # and the decoder is stored once


def test_only_dolphins_have_an_auxiliary_branch():
    with pytest.raises(ModelError, match="needs a Dolphin"):
        AuxiliaryBranch(create_model("rtfsnet_4"))


@pytest.mark.parametrize(
    ("epoch", "weight"),
    [(0, 0.4), (79, 0.4), (80, 0.4), (84, 0.4), (85, 0.32), (89, 0.32), (90, 0.256), (94, 0.256), (95, 0.2048)],
)
def test_lambda_is_that_of_eq_28(epoch, weight):
    """0.4 up to epoch 80, then 0.4 x 0.8^floor((epoch - 80) / 5), worked out by hand."""
    assert auxiliary_weight(epoch, 0.4) == pytest.approx(weight)


@pytest.mark.parametrize(("epoch", "weight"), [(0, 0.4), (90, 0.256)])
def test_the_loss_is_that_of_eq_27(epoch, weight):
    """-((1 - lambda) SI-SNR_t + lambda SI-SNR_f): both ratios are to rise, so the loss is their negative."""
    torch.manual_seed(0)
    module = SeparationTraining(
        create_model("dolphin_test", **CALM),
        TrainingPart(loss="si_snr", auxiliary_weight=0.4, steps_per_epoch=1, epochs=1, batch_mixtures=1),
    )
    module._trainer = SimpleNamespace(current_epoch=epoch)
    voices, noise = torch.randn(2, 1, 4_000), torch.randn(2, 1, 4_000)
    estimates, early = voices + 0.1 * noise, voices[..., :3_998] + 0.5 * noise[..., :3_998]
    module.auxiliary.forward = lambda: early
    t, f = float(si_snr(estimates, voices).mean()), float(magnitude_si_snr(early, voices[..., :3_998]).mean())
    assert t == pytest.approx(20, abs=0.5) and 3 < f < 12  # far apart, so that the weights show
    loss = module._loss(estimates, voices.sum(0), voices)
    assert float(loss) == pytest.approx(-((1 - weight) * t + weight * f), abs=1e-3)
