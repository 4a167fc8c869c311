"""How programs that hook modules count multiply-accumulates, restated for functional calls.

ptflops (Dolphin's tables): convolutions and linear maps with their bias; transposed convolutions by their input; norms
once per element, twice when affine; activations, pooling, softmax and upsampling once per element; recurrent layers
with their elementwise part.

thop (BIN's table): convolutions and linear maps without bias; transposed convolutions by their output, which is
`stride` times what is executed; PReLU once per element, batch and instance norm twice; other activations, and global
norms (a class of the papers' own), nothing.

Both miss einsum, Fourier transforms and most attention. A product with a matrix that all of the batch share is a
linear map, however it is spelt here. Where published code spells attention with torch.matmul, ptflops sees it:
`PRODUCTS_SEEN`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from lipsep.layers.filterbank import FilterbankDecoder

Rule = Callable[..., int]
"""rule(output, *arguments of the call) -> multiply-accumulates."""


GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
PRODUCTS = ("matmul", "__matmul__", "bmm", "mm")
PRODUCTS_SEEN = {"Dolphin": ("separator",)}
"""Class of a model -> submodules whose attention the published code spells with torch.matmul."""


def recurrent_macs(name: str, x: Tensor, hidden: Any, weights: Any, *settings: Any) -> tuple[int, Any]:
    """Multiply-accumulates of a whole recurrent call, and outputs of the right shapes without numbers.

    Args:
        name: "lstm", "gru", "rnn_tanh" or "rnn_relu"; the rest as that function of torch takes it for a padded batch,
            with `settings` (has_biases, n_layers, dropout, train, bidirectional, batch_first).
    """
    states = hidden if name == "lstm" else (hidden,)
    n_directions = 2 if settings[4] else 1
    steps = x.shape[0] * x.shape[1]  # of the whole batch
    macs = steps * sum(w.numel() for w in weights if w.ndim == 2)
    output = x.new_empty(*x.shape[:2], n_directions * states[0].shape[-1])
    return macs, (output, *states)


def _per_element(times: int) -> Rule:
    def rule(output: Tensor, x: Tensor, *_: object, **__: object) -> int:
        return times * x.numel()

    return rule


def _per_output(output: Tensor, *_: object, **__: object) -> int:
    return output.numel()


def _norm(weight_at: int) -> Rule:
    """ptflops: one per element, two where the norm has a gain."""

    def rule(output: Tensor, *args: object, weight: Tensor | None = None, **_: object) -> int:
        affine = weight is not None or (len(args) > weight_at and args[weight_at] is not None)
        return (2 if affine else 1) * output.numel()

    return rule


def _conv(biased: bool) -> Rule:
    def rule(output: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: object, **__: object) -> int:
        return output.numel() * (weight[0].numel() + (biased and bias is not None))

    return rule


def _conv_transpose_by_input(
    output: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: object, **__: object
) -> int:
    positions = x.shape[0] * math.prod(x.shape[2:])
    return positions * (weight.numel() + (0 if bias is None else output.shape[1]))


def _conv_transpose_by_output(output: Tensor, x: Tensor, weight: Tensor, *_: object, **__: object) -> int:
    return output.numel() * x.shape[1] * math.prod(weight.shape[2:])


def _linear(biased: bool) -> Rule:
    def rule(output: Tensor, x: object, weight: Tensor, bias: Tensor | None = None, *_: object) -> int:
        return output.numel() * (weight.shape[-1] + (biased and bias is not None))

    return rule


def stretching_saved(output: Tensor, parts: Sequence[Tensor], weight: Tensor, *_: object) -> int:
    """What `stretched_linear` does not execute by mapping coarse parts before it stretches them."""
    length = output.shape[1]
    per_step = output.shape[0] * weight.shape[0]
    return per_step * sum((length - min(length, part.shape[1])) * part.shape[2] for part in parts)


def _recurrent(elementwise: dict[str, int]) -> Rule:
    """Products of all layers, plus elementwise work and biases per hidden unit, step, layer and direction."""

    def rule(name: str, products: int, x: Tensor, hidden: Any, weights: Any, *settings: Any) -> int:
        states = hidden if name == "lstm" else (hidden,)
        biases = sum(w.numel() for w in weights if w.ndim == 1)
        units = states[0].shape[-1] * states[0].shape[0]
        return products + x.shape[0] * x.shape[1] * (biases + elementwise[name] * units)

    return rule


def _named(rule: Rule, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)


_CONVS, _CONV_TRANSPOSES = (tuple(f"{kind}{n}d" for n in (1, 2, 3)) for kind in ("conv", "conv_transpose"))
_ACTIVATIONS = ("relu", "relu_", "prelu", "leaky_relu", "leaky_relu_", "elu", "elu_", "gelu", "hardtanh", "relu6")
_POOLS = tuple(f"{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for n in (1, 2, 3))

HOOK_RULES: dict[str, dict[str, Rule]] = {
    "ptflops": {
        **_named(_conv(biased=True), *_CONVS),
        **_named(_conv_transpose_by_input, *_CONV_TRANSPOSES),
        **_named(_linear(biased=True), "linear", "stretched_linear"),
        **_named(_per_output, *_ACTIVATIONS, "softmax", "interpolate"),
        **_named(_per_element(1), *_POOLS),
        **_named(_norm(3), "batch_norm", "instance_norm"),
        **_named(_norm(2), "layer_norm", "group_norm"),
        **_named(_per_element(2), "global_norm"),
        "recurrent": _recurrent({"lstm": 10, "gru": 7, "rnn_tanh": 1, "rnn_relu": 1}),
    },
    "thop": {
        **_named(_conv(biased=False), *_CONVS),
        **_named(_conv_transpose_by_output, *_CONV_TRANSPOSES),
        **_named(_linear(biased=False), "linear", "stretched_linear"),
        **_named(_per_element(1), "prelu"),
        **_named(_per_element(2), "batch_norm", "instance_norm"),
        "recurrent": _recurrent({"lstm": 10, "gru": 7, "rnn_tanh": 1, "rnn_relu": 1}),
    },
}


def _filterbank_by_output(layer: FilterbankDecoder, inputs: tuple[Tensor], output: Tensor) -> int:
    """A transposed convolution by its output, less the linear map that stands for it."""
    channels, _, kernel = layer.weight.shape
    return output.numel() * channels * kernel - inputs[0].numel() * kernel


LAYER_RULES: dict[str, dict[type[nn.Module], Rule]] = {
    "ptflops": {},
    "thop": {FilterbankDecoder: _filterbank_by_output},
}
"""What layers add to what their functional calls count: rule(layer, inputs, output)."""
