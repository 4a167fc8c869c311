"""Multiply-accumulates (MACs) and parameters, counted on the meta device: shapes only, nothing is computed.

The true count is what is executed, wherever in the code: torch's FlopCounterMode halved, with rules of our own where it
is blind. A multiply-accumulate is two floating-point operations.

- convolution: outputs x taps x input channels per group, plain, depthwise and grouped alike; transposed: inputs instead
  of outputs. Bias, norms, activations and other elementwise work are free.
- matrix product: m n k, wherever it comes from: linear maps, attention, einsum.
- recurrent (blind: on a CPU an LSTM is one fused call): per step, layer and direction, gates x hidden x
  (input + hidden), with 4 gates for LSTM, 3 for GRU, 1 for a plain RNN; a projection of the hidden state is added.
- fourier (blind): a complex transform of N points takes 5 N log2 N operations, a real one half of that.

The literature counts otherwise: hooks on modules see a layer's call, not what runs inside, and miss every product,
einsum and transform that is not a layer of its own. `hook_rules` imitates the two programs that the papers used, at the
level of functional calls, so that the count does not depend on how a model is cut into modules.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.models.base import SeparationModel
from lipsep.profiling.hook_rules import (
    GATES,
    HOOK_RULES,
    LAYER_RULES,
    PRODUCTS,
    PRODUCTS_SEEN,
    recurrent_macs,
    stretching_saved,
)

KINDS = {
    "convolution": "convolution",
    "_convolution": "convolution",
    "_fft_r2c": "fourier",
    "_fft_c2r": "fourier",
    "_fft_c2c": "fourier",
}
"""Operators that are no matrix product."""


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters; `without_video_encoder` equals `total` where a model has no video encoder of its own."""

    total: int
    without_video_encoder: int


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass, in all, outside the video encoder, and by kind of operation."""

    total: int
    without_video_encoder: int
    by_kind: dict[str, int]


@dataclass(frozen=True)
class MacCounts:
    """What is executed, and what the program `counter` of the literature would have said of the published code.

    `saved` is what the published code executes on top of `true`, because lipsep maps coarse sequences before it
    stretches them (`lipsep.kernels.stretching.stretched_linear`); it says nothing of transforms.
    """

    true: Macs
    hooks: Macs
    counter: str
    saved: int


def count_parameters(model: nn.Module) -> Parameters:
    """Parameters with and without the submodule `video_encoder`, each tensor counted once."""
    total = sum(p.numel() for p in model.parameters())
    video_encoder = getattr(model, "video_encoder", None)
    own = sum(p.numel() for p in video_encoder.parameters()) if isinstance(video_encoder, nn.Module) else 0
    return Parameters(total, total - own)


def example_inputs(
    model: SeparationModel, n_samples: int, batch: int = 1, device: torch.device | str = "cpu"
) -> tuple[Tensor, ...]:
    """Noise of the form that a model takes: mixture (B, T), lips (B[, n_src], F, S, S), and where it needs them
    pictures of faces (B[, n_src], 3, P, P)."""
    size = model.config.lip_size
    people = (model.n_faces,) if model.faces_at_once else ()
    n_frames = max(1, round(n_samples / SAMPLES_PER_FRAME))
    shapes = [(batch, n_samples), (batch, *people, n_frames, size, size)]
    if model.needs_faces:
        shapes.append((batch, *people, 3, model.config.face_size, model.config.face_size))
    return tuple(torch.randn(shape, device=device) for shape in shapes)


def count_macs(model: SeparationModel, n_samples: int, batch: int = 1, counter: str = "ptflops") -> MacCounts:
    """Multiply-accumulates of one forward pass in evaluation mode.

    Args:
        model: left as it is; a copy without numbers is counted, or run for real where it looks at its numbers.
        n_samples: length of the mixture at 16 kHz; the lips have one picture per 640 samples.
        counter: whose rules `hooks` follows: "ptflops" (Dolphin's tables) or "thop" (BIN's).
    """
    model = copy.deepcopy(model).eval()
    try:
        shapes_only = copy.deepcopy(model).to("meta")
        return count_calls(shapes_only, example_inputs(shapes_only, n_samples, batch, "meta"), counter)
    except NotImplementedError:  # an operator that has no meaning without numbers
        return count_calls(model, example_inputs(model, n_samples, batch), counter)


def count_calls(model: nn.Module, inputs: Sequence[Tensor], counter: str = "ptflops") -> MacCounts:
    """As `count_macs`, for any module on the meta device and any inputs."""
    flops = FlopCounterMode(display=False, custom_mapping=FOURIER_RULES)
    root = type(model).__name__
    calls = _Calls(flops, root, HOOK_RULES[counter])
    rules = LAYER_RULES[counter]
    handles = [
        layer.register_forward_hook(partial(calls.add_layer, rules[type(layer)]))
        for layer in model.modules()
        if type(layer) in rules
    ]
    try:
        with torch.no_grad(), flops, calls:
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    by_module = flops.get_flop_counts()
    true, video = (_by_kind(by_module.get(name, {})) for name in ("Global", f"{root}.video_encoder"))
    true += calls.recurrent[True] + calls.recurrent[False]
    video += calls.recurrent[True]
    hooks = calls.hooks[True] + calls.hooks[False]
    return MacCounts(
        Macs(true.total(), true.total() - video.total(), dict(true)),
        Macs(hooks.total(), calls.hooks[False].total(), dict(hooks)),
        counter,
        calls.saved,
    )


def _by_kind(flops: dict[Any, int]) -> Counter[str]:
    macs: Counter[str] = Counter()
    for operator, number in flops.items():
        macs[KINDS.get(str(operator).removeprefix("aten."), "matrix product")] += number // 2
    return macs


def _transform_flops(n_points: int, n_transforms: int, real: bool) -> int:
    return round((2.5 if real else 5) * n_transforms * n_points * math.log2(max(n_points, 2)))


def _fft_r2c(x: Sequence[int], dim: Sequence[int], *_: object, **__: object) -> int:
    n_points = math.prod(x[d] for d in dim)
    return _transform_flops(n_points, math.prod(x) // n_points, real=True)


def _fft_c2c(x: Sequence[int], dim: Sequence[int], *_: object, **__: object) -> int:
    n_points = math.prod(x[d] for d in dim)
    return _transform_flops(n_points, math.prod(x) // n_points, real=False)


def _fft_c2r(x: Sequence[int], dim: Sequence[int], _norm: int, last_dim_size: int, **__: object) -> int:
    n_points = math.prod([*(x[d] for d in dim[:-1]), last_dim_size])
    return _transform_flops(n_points, math.prod(x) // math.prod(x[d] for d in dim), real=True)


FOURIER_RULES: dict[Any, Callable[..., int]] = {
    torch.ops.aten._fft_r2c: _fft_r2c,
    torch.ops.aten._fft_c2r: _fft_c2r,
    torch.ops.aten._fft_c2c: _fft_c2c,
}


class _Calls(TorchFunctionMode):
    """Watches functional calls: applies the hook rules, and stands in for recurrent layers.

    The flop counter alone would unroll those step by step.
    """

    def __init__(self, flops: FlopCounterMode, root: str, rules: dict[str, Callable[..., int]]) -> None:
        super().__init__()
        self.running = flops.mod_tracker  # knows which modules are being called
        self.video_encoder = f"{root}.video_encoder"
        self.products_seen = {f"{root}.{name}" for name in PRODUCTS_SEEN.get(root, ())}
        self.rules = rules
        self.saved = 0
        self.hooks: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}  # by: inside the video encoder
        self.recurrent: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}

    def add_layer(self, rule: Callable[..., int], layer: nn.Module, inputs: Any, output: Any) -> None:
        self.hooks[self.video_encoder in self.running.parents]["layers"] += rule(layer, inputs, output)

    def __torch_function__(
        self, function: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        in_video = self.video_encoder in self.running.parents
        if name in GATES:
            products, output = recurrent_macs(name, *args)
            self.recurrent[in_video]["recurrent"] += products
            self.hooks[in_video][name] += self.rules["recurrent"](name, products, *args)
            return output
        output = function(*args, **kwargs)
        if name == "stretched_linear":
            self.saved += stretching_saved(output, *args)
        if name in self.rules:
            self.hooks[in_video][name] += self.rules[name](output, *args, **kwargs)
        elif name == "baddbmm" and args[0].shape[1] == 1:  # with biases: groups of linear maps at once
            self.hooks[in_video]["linear"] += output.numel() * args[1].shape[-1]
        elif name in PRODUCTS:
            if any(x.ndim == 2 for x in args[:2]):
                self.hooks[in_video]["linear"] += output.numel() * args[0].shape[-1]
            elif self.products_seen & self.running.parents:
                self.hooks[in_video]["attention"] += output.numel() * args[0].shape[-1]
        elif name == "baddbmm" and self.products_seen & self.running.parents:
            self.hooks[in_video]["attention"] += output.numel() * args[1].shape[-1]
        elif name == "scaled_dot_product_attention" and self.products_seen & self.running.parents:
            queries, keys = args[:2]
            self.hooks[in_video]["attention"] += (output.numel() + queries.numel()) * keys.shape[-2]
        return output
