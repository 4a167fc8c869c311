"""Simple recurrent units: the fast scan against the equations, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lipsep.layers.sru import SRU, SRULayer


def step_by_step(layer: SRULayer, x: Tensor) -> Tensor:
    """The paper's equations for one sequence (L, C_in), one channel group and direction after another."""
    n_groups, n_directions, hidden = layer.layout
    windows = x.unfold(0, layer.window, 1)  # (L', C_in, window)
    outputs = []
    for group, part in enumerate(windows.chunk(n_groups, dim=1)):
        maps = part.flatten(1) @ layer.weight[group]  # (L', directions * hidden * n_maps)
        maps = maps.unflatten(1, (n_directions, hidden, layer.n_maps))
        for direction in range(n_directions):
            span = slice(direction * hidden, (direction + 1) * hidden)
            v_f, v_r = layer.carry_weight[group].view(2, -1)[:, span]
            b_f, b_r = layer.bias[group].view(2, -1)[:, span]
            z, a, p = maps[:, direction].unbind(-1)[:3]
            skip = maps[:, direction, :, 3] if layer.n_maps == 4 else part.squeeze(2)[:, span]
            carry, h = torch.zeros_like(z[0]), [None] * len(z)
            for t in range(len(z)) if direction == 0 else reversed(range(len(z))):
                forget, reset = torch.sigmoid(a[t] + v_f * carry + b_f), torch.sigmoid(p[t] + v_r * carry + b_r)
                carry = forget * carry + (1 - forget) * z[t]
                h[t] = reset * carry + (1 - reset) * skip[t]
            outputs.append(torch.stack(h))
    return torch.cat(outputs, dim=1)


SIZES = [(6, 4, True, 1, 3), (8, 4, True, 1, 1), (6, 3, True, 2, 2), (5, 5, False, 1, 1), (8, 4, False, 2, 1)]


@pytest.mark.parametrize(("n_in", "hidden", "bidirectional", "n_groups", "window"), SIZES)
def test_values_and_gradients_are_those_of_the_equations(n_in, hidden, bidirectional, n_groups, window) -> None:
    torch.manual_seed(0)
    layer = SRULayer(n_in // n_groups, hidden, bidirectional, n_groups, window).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(9, 2, n_in, dtype=torch.float64, requires_grad=True)
    wanted = torch.stack([step_by_step(layer, sequence) for sequence in x.unbind(1)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], wanted)
    found, weights = layer(x)[0], torch.randn_like(wanted)
    torch.testing.assert_close(found, wanted)
    inputs = [x, *layer.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((wanted * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_sequence_in_pieces_gives_what_it_gives_at_once() -> None:
    torch.manual_seed(0)
    sru = SRU(6, 4, n_layers=3, bidirectional=False, n_groups=2).double()
    x = torch.randn(20, 3, 6, dtype=torch.float64)
    at_once, last = sru(x)
    carry, pieces = None, []
    for piece in x.split([1, 7, 12]):
        output, carry = sru(piece, carry)
        pieces.append(output)
    torch.testing.assert_close(torch.cat(pieces), at_once)
    torch.testing.assert_close(carry, last)
