"""Simple recurrent units (Lei et al., "Simple Recurrent Units for Highly Parallelizable Recurrence", EMNLP 2018).

All products with weights are done for the whole sequence at once; what is left to do step by step is elementwise:

    f[t] = sigmoid(a[t] + v_f * c[t-1] + b_f)             forget gate
    c[t] = f[t] * c[t-1] + (1 - f[t]) * z[t]              carry
    r[t] = sigmoid(p[t] + v_r * c[t-1] + b_r)             reset gate
    h[t] = r[t] * c[t] + (1 - r[t]) * s[t]                output; s is the input, or a projection where sizes differ

Sequences are time-major, (L, N, C); in memory they may lie in either order, and are left so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipsep.kernels.arranged import Arranged
from lipsep.kernels.recurrence import recur


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
        """v_f, v_r, b_f, b_r: (4, G, D, H), and matrices (G, window * C_in / G, D * n_maps * H)."""
        n_groups, n_directions, hidden = self.layout
        each = torch.stack([torch.stack(list(self.carry_weight)), torch.stack(list(self.bias))])  # (2, G, 2 D H)
        each = each.view(2, n_groups, 2, n_directions, hidden).transpose(1, 2).flatten(0, 1)
        weight = torch.stack(list(self.weight)).view(n_groups, -1, self.window, n_directions, hidden, self.n_maps)
        weight = weight.permute(0, 2, 1, 3, 5, 4).flatten(3).flatten(1, 2)
        return each, weight.contiguous()

    def forward(self, x: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            carry: (N, C_out) after the sequence's earlier part, zeros if there is none.

        Returns:
            outputs, last carry.
        """
        weights, matrices = self.arranged()
        n_groups, n_directions, hidden = self.layout
        time = int(self.window == 1 and x.stride(0) < x.stride(1))  # 1: each sequence is one piece of memory
        groups = x.transpose(0, time).unflatten(-1, (n_groups, -1))  # (L, N, G, C_in / G), or (N, L, ...)
        windows = (
            groups.unfold(0, self.window, 1) if self.window > 1 else groups.unsqueeze(-1)
        )  # (L', N, G, C_in / G, window)
        rows = windows.permute(2, 0, 1, 4, 3).flatten(3).flatten(1, 2)  # (G, L' * N, window * C_in / G)
        products = [part @ matrix for part, matrix in zip(rows, matrices, strict=True)]
        maps = torch.stack(products) if n_groups > 1 else products[0]
        maps = maps.to(weights.dtype)  # under autocast the products alone are of low precision
        maps = maps.view(n_groups, *windows.shape[:2], n_directions, self.n_maps, hidden)
        start = maps.new_zeros(x.shape[1], *self.layout) if carry is None else carry.unflatten(1, self.layout)
        same = groups.reshape(*windows.shape[:2], *self.layout).to(weights.dtype) if self.n_maps == 3 else None
        outputs, last = recur(maps, same, weights, start, time)
        return outputs.flatten(2).transpose(0, time), last.flatten(1)


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
        carries = []
        for i, layer in enumerate(self.layers):
            x, last = layer(x, None if carry is None else carry[i])
            carries.append(last)
        return x, torch.stack(carries)
