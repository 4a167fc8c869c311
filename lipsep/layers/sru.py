"""Simple recurrent units (Lei et al., "Simple Recurrent Units for Highly Parallelizable Recurrence", EMNLP 2018).

All products with weights are done for the whole sequence at once; what is left to do step by step is elementwise:

    f[t] = sigmoid(a[t] + v_f * c[t-1] + b_f)             forget gate
    c[t] = f[t] * c[t-1] + (1 - f[t]) * z[t]              carry
    r[t] = sigmoid(p[t] + v_r * c[t-1] + b_r)             reset gate
    h[t] = r[t] * c[t] + (1 - r[t]) * s[t]                output; s is the input, or a projection where sizes differ

Only f and c are computed in the loop, three operations a step for all sequences, channels, directions and groups
together. Its gradient is one multiplication and addition a step, because dc[t] / dc[t-1] is known beforehand.

Sequences are time-major, (L, N, C): what a step touches then lies in one piece.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels.arranged import Arranged
from lipsep.kernels.recurrence import scan


class SRULayer(Arranged):
    """One layer, forward or both ways, in independent groups of channels.

    Shape: (L, N, C_in) -> (L - window + 1, N, C_out) with C_out = n_groups * n_directions * hidden; the first group
    (G in all) sees the first C_in / G channels, and so on. Of each group's outputs, the first half is the forward
    direction's.

    Args:
        n_in: channels per group and step.
        hidden: per group and direction.
        window: neighbouring steps that are seen together, as one step of window * n_in channels.
    """

    def __init__(self, n_in: int, hidden: int, bidirectional: bool, n_groups: int = 1, window: int = 1) -> None:
        super().__init__()
        n_directions = 2 if bidirectional else 1
        self.window, self.layout = window, (n_groups, n_directions, hidden)
        self.n_maps = 3 if window == 1 and n_in == n_directions * hidden else 4  # z, a, p, and s where sizes differ
        bound = (3 / (n_in * window)) ** 0.5

        def uniform(*shape: int) -> nn.ParameterList:
            return nn.ParameterList(torch.empty(shape).uniform_(-bound, bound) for _ in range(n_groups))

        self.weight = uniform(n_in * window, n_directions * hidden * self.n_maps)
        self.carry_weight = uniform(2 * n_directions * hidden)  # v_f, v_r
        self.bias = nn.ParameterList(torch.zeros(2 * n_directions * hidden) for _ in range(n_groups))  # b_f, b_r

    def arrange(self) -> tuple[Tensor, ...]:
        """v_f, v_r (C_out,); matrices (G, window * C_in / G, n_maps * C_out / G), and what is added to the products."""
        n_groups, n_directions, hidden = self.layout
        v_f, v_r = torch.stack(list(self.carry_weight)).unflatten(1, (2, -1)).unbind(1)
        gates = torch.stack(list(self.bias)).view(n_groups, 2, n_directions, hidden).transpose(1, 2)  # b_f, b_r
        bias = F.pad(gates, (0, 0, 1, self.n_maps - 3)).view(n_groups, 1, -1)  # for z, a, p, s: (G, 1, D * n_maps * H)
        weight = torch.stack(list(self.weight)).view(n_groups, -1, self.window, n_directions, hidden, self.n_maps)
        weight = weight.permute(0, 2, 1, 3, 5, 4).flatten(3).flatten(1, 2)
        return v_f.flatten(), v_r.flatten(), weight.contiguous(), bias

    def forward(self, x: Tensor, turned: Tensor | None = None, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One layer, whose output has the backward direction's time turned round, as `in_time` undoes it.

        Args:
            turned: x with its own backward channels' time turned round, for a layer as wide as its input.
            carry: (N, C_out) after the sequence's earlier part, zeros if there is none.

        Returns:
            outputs, last carry.
        """
        v_f, v_r, weight, bias = self.arranged()
        n_groups, n_directions, hidden = self.layout
        groups = x.unflatten(-1, (n_groups, -1))  # (L, N, G, C_in / G)
        windows = (
            groups.unfold(0, self.window, 1) if self.window > 1 else groups.unsqueeze(-1)
        )  # (L', N, G, C_in / G, window)
        rows = windows.permute(2, 0, 1, 4, 3).flatten(3).flatten(1, 2)  # (G, L' * N, window * C_in / G)
        maps = torch.baddbmm(bias, rows, weight).view(n_groups, *windows.shape[:2], n_directions, self.n_maps, hidden)
        maps = self.in_time(maps.permute(4, 1, 2, 0, 3, 5).flatten(3), time=1)  # (n_maps, L', N, C_out)
        z, a, p, *projected = maps.unbind(0)
        start = torch.zeros_like(z[0]) if carry is None else carry
        c = scan(z, a, v_f, start)
        r = torch.sigmoid(torch.addcmul(p, torch.cat([start[None], c[:-1]]), v_r))
        if not projected:
            projected = [self.in_time(x) if turned is None else turned]
        return torch.lerp(projected[0], c, r), c[-1]

    def in_time(self, x: Tensor, time: int = 0) -> Tensor:
        """Turn the time of the backward direction's channels round: (..., L, N, C_out) -> same."""
        if self.layout[1] == 1:
            return x
        forward, backward = x.unflatten(-1, self.layout).unbind(-2)
        return torch.stack([forward, backward.flip(time)], dim=-2).flatten(-3)


class SRU(nn.Module):
    """A stack of layers, without a norm or dropout in between.

    Shape: (L, N, n_in) -> (L - window + 1, N, n_groups * n_directions * hidden).
    """

    def __init__(
        self, n_in: int, hidden: int, n_layers: int, bidirectional: bool, n_groups: int = 1, window: int = 1
    ) -> None:
        super().__init__()
        n_hidden = (2 if bidirectional else 1) * hidden
        first = SRULayer(n_in // n_groups, hidden, bidirectional, n_groups, window)
        rest = [SRULayer(n_hidden, hidden, bidirectional, n_groups) for _ in range(n_layers - 1)]
        self.layers = nn.ModuleList([first, *rest])

    def forward(self, x: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """carry: (layers, N, channels) that an earlier call returned for the same sequences' earlier part."""
        carries, turned = [], None
        for i, layer in enumerate(self.layers):
            turned, last = layer(x, turned, None if carry is None else carry[i])
            x = layer.in_time(turned)
            carries.append(last)
        return x, torch.stack(carries)
