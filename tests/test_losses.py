import math

import pytest
import torch

from lipsep.losses import LOSSES, si_snr, snr


def test_known_ratio_in_decibels():
    """A noise of one tenth the amplitude, orthogonal to the target, is 20 dB below it."""
    t = torch.arange(16_000) / 16_000
    target, noise = torch.sin(2 * math.pi * 100 * t), 0.1 * torch.cos(2 * math.pi * 100 * t)
    assert si_snr(target + noise, target).item() == pytest.approx(20.0, abs=0.01)
    assert snr(target + noise, target).item() == pytest.approx(20.0, abs=0.01)


def test_scale_matters_to_snr_only():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 8_000, generator=generator)
    estimate = target + 0.3 * torch.randn(3, 8_000, generator=generator)
    torch.testing.assert_close(si_snr(5 * estimate, target), si_snr(estimate, target), atol=1e-3, rtol=0)
    assert (snr(5 * estimate, target) < snr(estimate, target) - 10).all()


def test_offset_does_not_matter_to_si_snr():
    target = torch.randn(8_000, generator=torch.Generator().manual_seed(1))
    estimate = target + 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(2))
    assert si_snr(estimate + 0.7, target).item() == pytest.approx(si_snr(estimate, target).item(), abs=1e-3)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_silence_is_finite_and_losses_fall_as_the_estimate_improves(name):
    loss = LOSSES[name]
    silent = torch.zeros(2, 1, 4_000, requires_grad=True)
    value = loss(silent, torch.zeros(2, 1, 4_000))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(silent.grad).all()
    target = torch.randn(2, 1, 4_000, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(2, 1, 4_000, generator=torch.Generator().manual_seed(4))
    assert loss(target + 0.1 * noise, target) < loss(target + noise, target)
