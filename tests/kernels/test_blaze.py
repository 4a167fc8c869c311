"""The face networks in one go: all forms say what PyTorch says, for pictures of any size that the networks take."""

from __future__ import annotations

import copy

import pytest
import torch
from agreement import assert_close
from torch import Tensor

from lipsep.faces.nets import BlazeFace, FaceMesh, FaceNet


def fresh(kind: type[FaceNet]) -> FaceNet:
    """Random weights, under which nothing fades on its way through the layers."""
    net = kind().requires_grad_(False).eval()
    for name, parameter in net.named_parameters():
        if parameter.dim() == 1 and name.endswith("weight"):  # slopes of PReLU
            parameter.uniform_(-0.5, 0.9)
        elif parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter)
        else:
            parameter.normal_(0, 0.1)
    return net


def pictures(batch: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, 3, height, width).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("kind", "batch", "height", "width"),
    [(BlazeFace, 1, 32, 32), (BlazeFace, 2, 96, 64), (FaceMesh, 1, 192, 192), (FaceMesh, 3, 192, 192)],
)
@torch.inference_mode()
def test_all_forms_agree(form, kind: type[FaceNet], batch: int, height: int, width: int) -> None:
    net = fresh(kind)
    x = pictures(batch, height, width)
    expected = copy.deepcopy(net).double().maps(x.double())
    for _ in range(2):  # the steps are written down, then used again
        for found, wanted in zip(net.frozen_maps(x), expected, strict=True):
            assert wanted.abs().max() > 0.1
            assert_close(found, wanted, 2e-5)
    form.assert_ran("face_net")


@torch.inference_mode()
def test_other_weights_are_used_when_they_are_loaded(compiled) -> None:
    net, other = fresh(BlazeFace), fresh(BlazeFace)
    x = pictures(1, 32, 32)
    before = net.frozen_maps(x)
    net.load_state_dict(other.state_dict())
    for found, wanted, old in zip(net.frozen_maps(x), other.frozen_maps(x), before, strict=True):
        assert_close(found, wanted)
        assert (found - old).abs().max() > 0.1


def test_where_gradients_are_kept_pytorch_runs(form) -> None:
    net, x = fresh(BlazeFace), pictures(1, 32, 32)
    with torch.no_grad():
        expected = net.maps(x)
    for found, wanted in zip(net.frozen_maps(x), expected, strict=True):
        assert_close(found, wanted)
    assert not form.ran
