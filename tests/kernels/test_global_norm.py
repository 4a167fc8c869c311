"""Global norms, alone and with a PReLU or a convolution: all forms say what the definition says."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_close, assert_forms_agree
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels.depthwise import plain_depthwise
from lipsep.kernels.global_norm import (
    ConvAndNorm,
    conv_norms,
    gain_prelu,
    global_norm,
    norm_prelu,
    plain_global_norm,
    plain_standardise,
    standardise,
)

SHAPES = [(1, 1), (3, 9), (2, 64), (1, 133)]
"""Recordings and their steps: shorter than a filter reaches, whole pieces, pieces and a rest."""
KERNELS = "norm_prelu", "norm_prelu_backward"


def levels(batch: int, time: int) -> Tensor:
    """Recordings whose mean is far from zero."""
    return torch.randn(batch, time, 48) * 3 + 20 * torch.randn(batch, 1, 1)


def gain_and_bias() -> list[Tensor]:
    return [torch.empty(48).uniform_(-1.5, 1.5) for _ in range(2)]


@pytest.mark.parametrize(("batch", "time"), SHAPES)
def test_all_forms_agree(form, batch: int, time: int) -> None:
    def ours(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return global_norm(x, gain, bias, 1e-8)

    def plain(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return plain_global_norm(x, gain, bias, 1e-8)

    assert_forms_agree(ours, plain, [levels(batch, time), *gain_and_bias()], 5e-5)
    form.assert_ran(*KERNELS)


def test_without_gain_and_bias_too(form) -> None:
    assert_forms_agree(lambda x: standardise(x, 1e-5), lambda x: plain_standardise(x, 1e-5), [levels(2, 40)], 5e-5)


def test_the_definition_is_that_of_group_norm_with_one_group() -> None:
    x, (gain, bias) = levels(2, 17).double(), (t.double() for t in gain_and_bias())
    expected = F.group_norm(x.mT, 1, gain, bias, 1e-5).mT
    torch.testing.assert_close(plain_global_norm(x, gain, bias, 1e-5), expected)


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5])
@pytest.mark.parametrize(("batch", "time"), SHAPES)
def test_with_a_prelu_behind_it(form, batch: int, time: int, slope: float) -> None:
    def ours(x: Tensor, gain: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
        return norm_prelu(x, gain, bias, 1e-8, slope)

    def plain(x: Tensor, gain: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
        return F.prelu(plain_global_norm(x, gain, bias, 1e-8), slope)

    assert_forms_agree(ours, plain, [levels(batch, time), *gain_and_bias(), torch.tensor([slope])], 5e-5)
    form.assert_ran(*KERNELS)


@pytest.mark.parametrize(("batch", "time"), SHAPES)
def test_a_gain_with_a_prelu_behind_it(form, batch: int, time: int) -> None:
    def plain(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
        return F.prelu(plain_depthwise(x, weight, bias), slope)

    gain, bias = gain_and_bias()
    inputs = [torch.randn(batch, time, 48), gain[:, None, None], bias, torch.tensor([0.25])]
    assert_forms_agree(gain_prelu, plain, inputs, 2e-5)
    form.assert_ran(*KERNELS)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("batch", "time"), SHAPES)
def test_convolutions_of_one_sequence_and_their_norms(form, batch: int, time: int, stride: int) -> None:
    def ours(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        return conv_norms(x, stride, ConvAndNorm(*weights[:4], eps=1e-5), ConvAndNorm(*weights[4:], eps=1e-3))

    def plain(x: Tensor, *weights: Tensor) -> list[Tensor]:
        return [
            plain_global_norm(plain_depthwise(x, *weights[at : at + 2], stride), *weights[at + 2 : at + 4], eps)
            for at, eps in ((0, 1e-5), (4, 1e-3))
        ]

    weights = [w for _ in range(2) for w in (torch.randn(48, 1, 5), *gain_and_bias(), torch.randn(48))]
    assert_forms_agree(ours, plain, [torch.randn(batch, time, 48), *weights], 5e-5)
    form.assert_ran("conv_norm", "conv_norm_backward")


def test_numbers_of_channels_that_fill_no_vectors_are_left_to_pytorch(form) -> None:
    x, gain, bias = torch.randn(2, 9, 6), torch.rand(6), torch.rand(6)
    expected = plain_global_norm(x.double(), gain.double(), bias.double(), 1e-8)
    assert_close(global_norm(x, gain, bias, 1e-8), expected, 2e-5)
    assert not form.ran


def test_nans_stay(form) -> None:
    """A network with broken weights must be found out, not answer with numbers."""
    x, (gain, bias) = torch.randn(2, 10, 48), gain_and_bias()
    x[0, 5, 3] = torch.nan
    y = norm_prelu(x, gain, bias, 1e-8, torch.tensor([0.25]))
    assert y[0].isnan().all() and not y[1].isnan().any()
    (y,) = conv_norms(x, 1, ConvAndNorm(torch.randn(48, 1, 5), bias, gain, bias, 1e-8))
    assert y[0].isnan().all() and not y[1].isnan().any()


def test_gradients_of_gradients_are_refused_where_there_are_none(compiled) -> None:
    x = torch.randn(2, 5, 48, requires_grad=True)
    y = norm_prelu(x, *gain_and_bias(), 1e-8, torch.tensor([0.25]))
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
