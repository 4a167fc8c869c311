"""Layers that prepare themselves for inference: the same outputs, until they train, move or get other weights."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lipsep.encoders import create_encoder
from lipsep.encoders.front_conv import FrontConv
from lipsep.kernels.arranged import Arranged
from lipsep.layers.afrcnn import StretchedLinear, packed_once
from lipsep.layers.packed_linear import PackedLinear
from lipsep.layers.picture_conv import conv_norm
from lipsep.models.visualvoice import DoublingConv, FaceEncoder, SpectrogramUNet


def trained(network: nn.Module) -> nn.Module:
    """With norms that have seen something."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def prepare(network: nn.Module) -> None:
    arranged = [module for module in network.modules() if isinstance(module, Arranged)]
    assert arranged
    for module in arranged:
        module.prepare_for_inference()


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: nn.Sequential(*conv_norm(6, 8, 3, 2, padding=1, groups=2)), [(2, 6, 9, 7)]),
        (lambda: DoublingConv(6, 8), [(2, 6, 5, 7)]),
        (lambda: FrontConv(8, nn.PReLU(8)), [(2, 3, 20, 20)]),
        (lambda: PackedLinear(12, 5), [(2, 3, 12)]),
        (lambda: FaceEncoder(16), [(1, 3, 64, 64)]),
        (lambda: SpectrogramUNet(4, 6), [(1, 2, 256, 8), (1, 6, 2)]),
        *((lambda name=name: create_encoder(name, lip_size=32), [(1, 3, 32, 32)])
          for name in ("resnet18_3d", "resnet18_3d_256", "resnet18_temporal", "shufflenet_tcn")),
    ],
    ids=["conv", "doubling", "front", "linear", "face", "unet", "resnet", "resnet_256", "temporal", "shufflenet"],
)  # fmt: skip
def test_prepared_layers_give_the_same(make, shapes):
    torch.manual_seed(0)
    network, inputs = trained(make()), [torch.randn(shape) for shape in shapes]
    with torch.inference_mode():
        before = network(*inputs)
        prepare(network)
        torch.testing.assert_close(network(*inputs), before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    network(*inputs).sum().backward()  # whoever wants gradients gets them
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without in ([], ["stages.0.shortcut.weight"])  # which exists as published, and is not used


def test_what_was_prepared_is_forgotten_with_other_weights():
    torch.manual_seed(0)
    network, other = (trained(nn.Sequential(*conv_norm(3, 4, 3))) for _ in range(2))
    x = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        prepare(network)
        network.load_state_dict(other.state_dict())
        torch.testing.assert_close(network(x), other(x))
        prepare(network)
        network[1].load_state_dict({**other[1].state_dict(), "bias": torch.full((4,), 9.0)})
        assert network(x).mean() > other(x).mean() + 5
        prepare(network)
        own_statistics = network.train()(x)
        assert own_statistics.mean((0, 2, 3)).sub(9).abs().max() < 1e-4
        prepare(network.eval())
        torch.testing.assert_close(copy.deepcopy(network)(x), network(x))
        assert network.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("packed", [False, True])
def test_stretched_maps_forget_what_was_packed(packed):
    torch.manual_seed(0)
    parts, layer = [torch.randn(2, time, size) for time, size in ((13, 3), (7, 4))], StretchedLinear([3, 4], 6)
    expected = layer(parts, 13)
    with packed_once(layer) if packed else nullcontext():
        torch.testing.assert_close(layer(parts, 13), expected)
    with torch.no_grad():
        layer.weight.zero_()
    torch.testing.assert_close(layer(parts, 13), layer.bias.expand_as(expected))
