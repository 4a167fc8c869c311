"""The recurrence of simple recurrent units, the only part of them that is done step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipsep.kernels.exporting import is_exporting

EXPORTED = ("lipsep", "scan")
"""Domain and name of the operator that stands for `scan` in a graph; `lipsep.onnx.export` says what it computes."""


def plain_scan(z: Tensor, a: Tensor, v: Tensor, start: Tensor) -> Tensor:
    """The definition; see `scan`."""
    carries, carry = [], start
    for z_t, a_t in zip(z.unbind(0), a.unbind(0), strict=True):
        forget = torch.sigmoid(a_t + v * carry)
        carry = forget * carry + (1 - forget) * z_t
        carries.append(carry)
    return torch.stack(carries)


def scan(z: Tensor, a: Tensor, v: Tensor, start: Tensor) -> Tensor:
    """c[t] = f[t] c[t-1] + (1 - f[t]) z[t] with f[t] = sigmoid(a[t] + v c[t-1]), all in place but for gradients.

    Shape: z, a (L, N, C), v (C,), start (N, C), the carry before the first step -> (L, N, C).
    """
    if torch.is_grad_enabled():
        return _Scan.apply(z, a, v, start)
    return _ExportedScan.apply(z, a, v, start) if is_exporting() else _carries(z, a, v, start)


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
