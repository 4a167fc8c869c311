"""The face networks in one go: their PyTorch form is watched once, and its steps then run without PyTorch.

The networks are small: most of what PyTorch takes for them is getting from one operation to the next. A `Sketch` goes
through a network in place of a picture and writes down what is done to it, as steps of native/blaze.cpp:

    depthwise 3 x 3, then 1 x 1, then plus a shortcut, then a slope      one step, which writes its result alone
    3 x 3 with stride 2 on the three colours, then a slope               one step
    plus the bilinearly doubled coarse features                          one step
    3 x 3 on a picture of 3 x 3                                          one step, a map of all its numbers

Pictures lie channels last. Channels are filled up with zeros to whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native

STEM, BLAZE, DOUBLE = range(3)
"""Kinds of steps, as the kernel numbers them."""


@dataclass
class Step:
    """What happens to a picture (height, width, n_in). Pictures have numbers; -1 is the one that came in."""

    kind: int
    x: int
    height: int
    width: int
    n_in: int
    n_out: int
    stride: int = 1
    plus: int | None = None  # a shortcut of n_plus channels, plus_stride times as high and wide as the result
    n_plus: int = 0
    plus_stride: int = 0
    filters: Tensor | None = None  # (10, n_in): nine taps and the bias
    weight: Tensor | None = None  # (n_in, n_out)
    bias: Tensor | None = None  # (n_out,)
    slope: Tensor | None = None  # (n_out,), of negative values; None: they become zeros

    @property
    def size(self) -> int:
        """Of what it makes, in floats."""
        grown = 2 if self.kind == DOUBLE else 1
        return grown**2 * (self.height // self.stride) * (self.width // self.stride) * self.n_out


@dataclass(frozen=True, eq=False)
class Sketch:
    """Stands for a picture (1, channels, height, width): PyTorch's functions on it are written down in `steps`."""

    steps: list[Step]
    number: int  # of the step that makes it
    channels: int
    height: int
    width: int
    taps: Tensor | None = None  # depthwise filters (10, channels) that wait for the map across channels
    stride: int = 1  # of these
    pooled: Sketch | None = None  # the picture of which this is the greatest of 2 x 2
    doubled: Sketch | None = None  # the picture of which this is the double

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return 1, self.channels, self.height, self.width

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Sketch:
        return _DRAWN[function](*args, **(kwargs or {}))

    def relu_(self) -> Sketch:
        self.steps[self.number].slope = None
        return self

    def add_(self, other: Sketch) -> Sketch:
        """A shortcut belongs to the step before it; doubled features are a step of their own."""
        if coarse := other.doubled:
            step = Step(DOUBLE, coarse.number, coarse.height, coarse.width, coarse.channels, self.channels)
            step.plus = self.number
            return self._then(step)
        step, source = self.steps[self.number], other.pooled or other
        step.plus, step.n_plus, step.plus_stride = source.number, source.channels, source.height // self.height
        return self

    def _then(self, step: Step) -> Sketch:
        self.steps.append(step)
        grown = 2 if step.kind == DOUBLE else 1
        height, width = grown * step.height // step.stride, grown * step.width // step.stride
        return Sketch(self.steps, len(self.steps) - 1, step.n_out, height, width)


def _draw_conv(
    x: Sketch, weight: Tensor, bias: Tensor, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Sketch:
    n_out, n_in, side, _ = weight.shape
    if groups > 1:  # depthwise
        taps = torch.cat([weight.view(groups, -1).t(), bias[None]])  # (10, C)
        return replace(x, taps=_whole(taps), stride=stride[0])
    bias, ones = _whole(bias), _whole(torch.ones_like(bias))  # slopes of one leave everything as it is
    step = Step(BLAZE, x.number, x.height, x.width, _up(x.channels), len(bias), bias=bias, slope=ones)
    if side == 1:
        step.stride, step.filters = x.stride, x.taps
        step.weight = _whole(_whole(weight.view(n_out, n_in)).t())
    else:
        step.weight = _whole(weight.permute(2, 3, 1, 0).reshape(-1, n_out))  # rows, columns, channels as they lie
        if x.number < 0:
            step.kind, step.n_in, step.stride = STEM, n_in, 2
        else:
            step.height, step.width, step.n_in = 1, 1, x.channels * x.height * x.width
    return replace(x._then(step), channels=n_out)


def _draw_slope(x: Sketch, slope: Tensor) -> Sketch:
    x.steps[x.number].slope = _whole(slope)
    return x


def _draw_pooling(x: Sketch, size: int, *_: Any, **__: Any) -> Sketch:
    return Sketch(x.steps, x.number, x.channels, x.height // size, x.width // size, pooled=x)


def _draw_doubling(x: Sketch, **_: Any) -> Sketch:
    return Sketch(x.steps, x.number, x.channels, 2 * x.height, 2 * x.width, doubled=x)


def _draw_padding(x: Sketch, *_: Any, **__: Any) -> Sketch:
    return x  # of pictures that are halved, or of channels that a shortcut lacks: the steps see to both


_DRAWN: dict[Callable, Callable[..., Sketch]] = {
    F.conv2d: _draw_conv,
    F.prelu: _draw_slope,
    F.max_pool2d: _draw_pooling,
    torch.max_pool2d: _draw_pooling,
    F.interpolate: _draw_doubling,
    F.pad: _draw_padding,
}


@dataclass
class Program:
    """The steps of a network for pictures of one size.

    Args:
        network: pictures (B, 3, H, W) -> several pictures, in PyTorch.
    """

    steps: Tensor  # (n, 15) int64, as native/blaze.cpp has them
    weights: Tensor  # of all steps, one after another
    size: int  # floats of memory that a picture takes on its way
    results: list[Sketch]

    @classmethod
    @torch.no_grad()
    def of(cls, network: Callable[[Any], tuple[Any, ...]], height: int, width: int) -> Program:
        steps: list[Step] = []
        results = list(network(Sketch(steps, -1, 3, height, width)))
        places, size = _places(steps, [result.number for result in results])
        weights: list[Tensor] = []

        def placed(x: Tensor | None) -> int:
            if x is None:
                return -1
            weights.append(x.detach().float().flatten())
            return sum(map(len, weights[:-1]))

        rows = [
            [
                step.kind, -1 if step.x < 0 else places[step.x], places[number],
                step.height, step.width, step.n_in, step.n_out, step.stride,
                0 if step.plus is None else places[step.plus], step.n_plus, step.plus_stride,
                placed(step.filters), placed(step.weight), placed(step.bias), placed(step.slope),
            ]
            for number, step in enumerate(steps)
        ]  # fmt: skip
        return cls(torch.tensor(rows), torch.cat(weights), size, results)

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W), channels last -> the network's pictures (B, C, H', W')."""
        batch, whole = len(pictures), [_up(result.channels) for result in self.results]
        sizes = [n * result.height * result.width for n, result in zip(whole, self.results, strict=True)]
        y = pictures.new_empty(batch, sum(sizes))
        native.run(
            "face_net", _pixels(pictures), self.steps, self.weights, y,
            batch, pictures[0].numel(), len(self.steps), self.size, 0, sum(sizes),
        )  # fmt: skip
        return [
            part.view(batch, result.height, result.width, -1).permute(0, 3, 1, 2)[:, : result.channels]
            for part, result in zip(y.split(sizes, 1), self.results, strict=True)
        ]


def takes(pictures: Tensor) -> bool:
    """Whether a `Program` may stand in for its network."""
    return not torch.is_grad_enabled() and native.takes(pictures) and _pixels(pictures).is_contiguous()


def _pixels(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _places(steps: list[Step], results: list[int]) -> tuple[dict[int, int], int]:
    """Where each step writes, and how many floats that takes: results first, the others where nobody reads any more."""
    places: dict[int, int] = {}
    size = 0
    for number in results:
        places[number], size = size, size + steps[number].size
    last_use = {number: len(steps) for number in results}
    for number, step in enumerate(steps):
        for source in (step.x, step.plus):
            if source is not None and source not in results:
                last_use[source] = number
    for number, step in enumerate(steps):
        if number in places:
            continue
        living = sorted((places[n], places[n] + steps[n].size) for n in places if last_use[n] >= number)
        start = 0
        for first, last in living:
            if start + step.size <= first:
                break
            start = max(start, last)
        places[number], size = start, max(size, start + step.size)
    return places, size


def _up(n: int) -> int:
    return n + -n % native.MULTIPLE


def _whole(x: Tensor) -> Tensor:
    """Zeros up to a multiple in the last dimension."""
    return F.pad(x, (0, -x.shape[-1] % native.MULTIPLE))
