"""Simple recurrent units after their products with weights: what is done step by step, and what hangs on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipsep.kernels import native
from lipsep.kernels.exporting import is_exporting

EXPORTED = ("lipsep", "scan")
"""Domain and name of the operator that stands for `scan` in a graph; `lipsep.onnx.export` says what it computes."""
TOGETHER = 16  # sequences whose gradients by the weights are one sum, as native/recurrence.cpp has it


def plain_recur(maps: Tensor, x: Tensor | None, weights: Tensor, start: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """The definition; see `recur`."""
    outputs, last = [], []
    for d in range(maps.shape[3]):

        def to_own_time(y: Tensor, turned: bool = d == 1) -> Tensor:
            """Its time first, and from its end for the second direction; the same once more undoes it."""
            return y.flip(0) if turned else y

        z, a, p, *rest = (to_own_time(y.movedim(1 + time, 0)) for y in maps[:, :, :, d].unbind(3))  # (L, G, N, H) each
        skip = rest[0] if x is None else to_own_time(x[:, :, :, d].movedim(time, 0)).transpose(1, 2)
        v_f, v_r, b_f, b_r = weights[:, :, d].unsqueeze(2)  # (G, 1, H) each
        before = start[:, :, d].transpose(0, 1)  # (G, N, H)
        c = plain_scan(z, a + b_f, v_f, before)
        r = torch.sigmoid(p + v_r * torch.cat([before[None], c[:-1]]) + b_r)
        h = to_own_time(r * c + (1 - r) * skip)  # (L, G, N, H)
        outputs.append(h.transpose(1, 2).movedim(0, time))
        last.append(c[-1].transpose(0, 1))
    return torch.stack(outputs, 3), torch.stack(last, 2)


def plain_scan(z: Tensor, a: Tensor, v: Tensor, start: Tensor) -> Tensor:
    """The definition; see `scan`."""
    carries, carry = [], start
    for z_t, a_t in zip(z.unbind(0), a.unbind(0), strict=True):
        forget = torch.sigmoid(a_t + v * carry)
        carry = forget * carry + (1 - forget) * z_t
        carries.append(carry)
    return torch.stack(carries)


def recur(maps: Tensor, x: Tensor | None, weights: Tensor, start: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """Gates, carries and outputs as in `lipsep.layers.sru`, for G groups and D directions, the second from time's end.

    Compiled, all of it is one pass over memory, and all gradients are another. In PyTorch everything but the carries is
    done for all steps at once.

    Args:
        maps: (G, A, B, D, M, H): z, a, p, and s where x is None (M = 3 or 4). A and B are L steps of N sequences, in
            either order.
        x: (A, B, G, D, H), the layer's input, in place of s.
        weights: v_f, v_r, b_f, b_r: (4, G, D, H)
        start: (N, G, D, H), the carries before the first step.
        time: 0 if A are the steps, 1 if B are.

    Returns:
        outputs (A, B, G, D, H), last carries (N, G, D, H).
    """
    if native.takes(maps, x, weights, start) and maps.shape[-1] % native.MULTIPLE == 0:
        pieces = (maps.contiguous(), None if x is None else x.contiguous(), weights.contiguous())
        if torch.is_grad_enabled():
            return _RecurNatively.apply(*pieces, start, time)
        return _recur_natively(*pieces, start, None, time)
    z, a, p, *rest = (_in_time(y.movedim(0, 2), time) for y in maps.unbind(4))  # (L, N, G, D, H) each
    skip = rest[0] if x is None else _in_time(x, time)
    v_f, v_r, b_f, b_r = weights
    c = scan(z.flatten(2), (a + b_f).flatten(2), v_f.flatten(), start.flatten(1)).unflatten(2, z.shape[2:])
    r = torch.sigmoid(torch.addcmul(p + b_r, torch.cat([start[None], c[:-1]]), v_r))
    return _in_time(torch.lerp(skip, c, r), 0).movedim(0, time), c[-1]


def scan(z: Tensor, a: Tensor, v: Tensor, start: Tensor) -> Tensor:
    """c[t] = f[t] c[t-1] + (1 - f[t]) z[t] with f[t] = sigmoid(a[t] + v c[t-1]), all in place but for gradients.

    Shape: z, a (L, N, C), v (C,), start (N, C), the carry before the first step -> (L, N, C).
    """
    if torch.is_grad_enabled():
        return _Scan.apply(z, a, v, start)
    return _ExportedScan.apply(z, a, v, start) if is_exporting() else _carries(z, a, v, start)


def _in_time(y: Tensor, time: int) -> Tensor:
    """Steps first, and those of the second direction from the end: (A, B, G, D, H) -> (L, N, G, D, H)."""
    y = y.movedim(time, 0)
    if y.shape[3] == 1:
        return y
    forward, backward = y.unbind(3)
    return torch.stack([forward, backward.flip(0)], 3)


def _carries(z: Tensor, a: Tensor, v: Tensor, start: Tensor) -> Tensor:
    carries, forget, carry = torch.empty_like(z), torch.empty_like(start), start
    if z.is_meta:  # shapes alone are asked for
        return carries
    for z_t, a_t, out in zip(z.unbind(0), a.unbind(0), carries.unbind(0), strict=True):
        torch.addcmul(a_t, carry, v, out=forget).sigmoid_()
        carry = torch.lerp(z_t, carry, forget, out=out)
    return carries


class _Scan(torch.autograd.Function):
    """`_carries` with its gradient by hand: a tenth of the graph that autograd would build."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, a: Tensor, v: Tensor, start: Tensor) -> Tensor:
        carries = _carries(z, a, v, start)
        ctx.save_for_backward(z, a, v, start, carries)
        return carries

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, a, v, start, carries = ctx.saved_tensors
        before = torch.cat([start[None], carries[:-1]])
        forget = torch.sigmoid(torch.addcmul(a, before, v))
        by_gate = (before - z) * forget * (1 - forget)  # dc[t] / da[t]
        by_carry = torch.addcmul(forget, by_gate, v)  # dc[t] / dc[t-1]
        grad = grad.clone()
        steps = grad.unbind(0)
        for t in range(len(steps) - 1, 0, -1):
            steps[t - 1].addcmul_(steps[t], by_carry[t])
        grad_a = grad * by_gate
        return grad * (1 - forget), grad_a, (grad_a * before).sum((0, 1)), grad[0] * by_carry[0]


class _ExportedScan(torch.autograd.Function):
    """Traced as one operator, since a loop would be taken down step by step, for one length alone."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, a: Tensor, v: Tensor, start: Tensor) -> Tensor:
        return _carries(z, a, v, start)

    @staticmethod
    def symbolic(graph: Any, z: Any, a: Any, v: Any, start: Any) -> Any:
        return graph.op("::".join(EXPORTED), z, a, v, start).setType(z.type())


# --- Compiled ---------------------------------------------------------------------------------------------------------


def _sizes(maps: Tensor, time: int) -> tuple[int, ...]:
    """L, N, G, D, H; by how many rows (A x B) steps and sequences are apart."""
    n_groups, *rows, n_directions, _, hidden = maps.shape
    apart = (rows[1], 1)
    return (rows[time], rows[1 - time], n_groups, n_directions, hidden, apart[time], apart[1 - time])


def _recur_natively(
    maps: Tensor, x: Tensor | None, weights: Tensor, start: Tensor, carries: Tensor | None, time: int
) -> tuple[Tensor, Tensor]:
    """carries: (A, B, G, D, H) to be filled, if they are wanted."""
    n_groups, n_a, n_b, n_directions, _, hidden = maps.shape
    outputs = maps.new_empty(n_a, n_b, n_groups, n_directions, hidden)
    state = start.clone(memory_format=torch.contiguous_format)
    native.run("recur", maps, x, weights, state, carries, outputs, *_sizes(maps, time))
    return outputs, state


class _RecurNatively(torch.autograd.Function):
    """By native/recurrence.cpp. Gates are computed again for gradients."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, x: Tensor | None, weights: Tensor, start: Tensor, time: int
    ) -> tuple[Tensor, Tensor]:
        n_groups, n_a, n_b, n_directions, _, hidden = maps.shape
        carries = maps.new_empty(n_a, n_b, n_groups, n_directions, hidden)
        ctx.time = time
        ctx.save_for_backward(maps, x, weights, start, carries)
        return _recur_natively(maps, x, weights, start, carries, time)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        maps, x, weights, start, carries = ctx.saved_tensors
        grad_maps, grad_x = torch.empty_like(maps), None if x is None else torch.empty_like(x)
        grad_start = grad_last.clone(memory_format=torch.contiguous_format)
        sums = maps.new_zeros(-(-len(start) // TOGETHER), *weights.shape)
        native.run(
            "recur_back", maps, x, weights, start.contiguous(), carries, grad_outputs.contiguous(), grad_start,
            grad_maps, grad_x, sums, *_sizes(maps, ctx.time),
        )  # fmt: skip
        return grad_maps, grad_x, sums.sum(0), grad_start, None
