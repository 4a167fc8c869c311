"""Heat diffusion: all forms say what the cosine transform says."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_close, assert_forms_agree
from golden import snr_db
from torch import Tensor

from lipsep.kernels.heat import diffuse, diffuse_by_fft, kernels_of, plain_diffuse

DIFFUSIVITIES = torch.tensor([-0.4, 0.0, 1e-3, 0.1, 0.7, 1.0, 1.9, 8.0, 5e3])
"""Also nothing at all, negative (training may get there), and so large that all heat is spread evenly."""


@pytest.mark.parametrize(("batch", "time"), [(2, 1), (1, 2), (3, 9), (2, 64), (1, 101)])
def test_all_forms_agree(form, batch: int, time: int) -> None:
    k = torch.empty(16).uniform_(0.01, 2)
    k[:3] = torch.tensor([0.0, -0.01, 1e4])
    if form.name == "exported":  # weights are fixed; kernels longer than the sequence are cut off at 512 steps
        k[2] = 1e3
        assert_forms_agree(diffuse, plain_diffuse, [torch.randn(batch, time, 16), k], 1e-5, fixed=[1])
    else:
        assert_forms_agree(diffuse, plain_diffuse, [torch.randn(batch, time, 16), k])
    form.assert_ran("heat_filter", "heat_filter_backward")


@pytest.mark.parametrize("time", [32, 33, 125, 2_001])
def test_short_kernels_of_fixed_weights_agree(form, time: int) -> None:
    kernels, by_fft = kernels_of(DIFFUSIVITIES)
    x = torch.randn(2, time, 9)
    expected = plain_diffuse(x.double(), DIFFUSIVITIES.double())
    with torch.inference_mode():
        found = diffuse(x, DIFFUSIVITIES, kernels, by_fft)
    assert by_fft.tolist() == [0, 2, 3, 4, 8]  # a small k falls slowly, a large one is wide; 0 changes nothing
    for channel in range(1, 8 if form.name == "exported" else 9):
        assert snr_db(expected[..., channel], found[..., channel]) > 105


def test_short_kernels_in_training_have_the_right_gradients(form) -> None:
    k = torch.tensor([1e-4, 0.1, 0.9, 1.0, 1.1, 1.5, 1.9, 8.0], requires_grad=form.name != "exported")
    x, weights = torch.randn(2, 1_001, 8, requires_grad=True), torch.randn(2, 1_001, 8)
    exact_x, exact_k = (t.detach().double().requires_grad_() for t in (x, k))
    y, expected = diffuse(x, k), plain_diffuse(exact_x, exact_k)
    for each in (y, expected):
        (each * weights).sum().backward()
    if k.requires_grad:
        torch.testing.assert_close(k.grad.double(), exact_k.grad, rtol=1e-3, atol=1e-3)
    for channel in range(8):
        assert snr_db(expected.detach()[..., channel], y.detach()[..., channel]) > 105
        assert snr_db(exact_x.grad[..., channel], x.grad[..., channel]) > 105


@pytest.mark.parametrize("time", [1, 2, 3, 7, 16, 125, 500, 2_001])
def test_the_fft_is_exact(time: int) -> None:
    x = torch.randn(3, time, 9, dtype=torch.double)
    expected = plain_diffuse(x, DIFFUSIVITIES.double())
    torch.testing.assert_close(diffuse_by_fft(x, DIFFUSIVITIES.double()), expected, rtol=1e-9, atol=1e-9)
    assert snr_db(expected[..., 1:], diffuse_by_fft(x.float(), DIFFUSIVITIES)[..., 1:]) > 110


@pytest.mark.parametrize("time", [1, 2, 5, 8])
def test_the_fft_has_the_right_gradients(time: int) -> None:
    x = torch.randn(2, time, 3, dtype=torch.double, requires_grad=True)
    k = torch.tensor([-0.3, 0.1, 1.5], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(diffuse_by_fft, (x, k))


def test_kernels_are_no_longer_than_needed() -> None:
    kernels, by_fft = kernels_of(torch.ones(3))
    assert kernels.shape == (3, 1, 1, 27)
    assert not len(by_fft)


def test_heat_spreads_evenly_in_the_end_and_none_is_lost(form) -> None:
    x = torch.zeros(1, 20, 2)
    x[0, 3, 0] = 1.0
    y: Tensor = diffuse(x, torch.tensor([1e3, 1e3]))
    assert_close(y, torch.tensor([0.05, 0.0]).expand(1, 20, 2), 1e-4)
