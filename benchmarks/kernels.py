"""What the compiled kernels (lipsep/kernels/native) save, against the same layers in PyTorch's own operators, in turn.

    python benchmarks/kernels.py

Sizes are those of Dolphin on 2 s of sound. Processor time of one thread, the least of several runs, in milliseconds: of
inference, and of a training step's two passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from dolphin_speed import least_cpu_s
from torch import Tensor, nn

from lipsep.encoders.dp_lipcoder import DPLipCoder, LinearSpaceAttention, SpaceAttention
from lipsep.kernels import native
from lipsep.layers.heat import HeatDiffusion
from lipsep.layers.relative_attention import RelativeAttention
from lipsep.models.dolphin import DolphinConfig, FeedForward
from lipsep.system.environment import keep_freed_memory

RUNS = 9
TIME, COARSE, FRAMES = 8_000, 500, 50  # steps at the finest and at the coarsest resolution, pictures


def cases() -> dict[str, tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor], Tensor]]:
    """Name -> a layer, how it is called, and its input."""
    config, positions = DolphinConfig(), torch.randn(4_000, 16)
    attention = RelativeAttention(config.channels, config.n_heads, 1.0, config.dropout)
    heat = HeatDiffusion(config.channels, as_published=False)
    with torch.no_grad():
        heat.k.uniform_(0.1, 1.9)

    def call(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)

    def stems(coder: nn.Module, lips: Tensor) -> Tensor:
        return sum(x.sum() for x in coder._stems(lips, [coder.semantic, coder.reconstruction]))

    return {
        "attention with positions": (attention, lambda a, x: a(x, positions), torch.randn(1, COARSE, config.channels)),
        "feed-forward network": (FeedForward(config), call, torch.randn(1, TIME, config.channels)),
        "heat diffusion": (heat, call, torch.randn(1, TIME, config.channels)),
        "linear attention of the video": (LinearSpaceAttention(16), call, torch.randn(1, FRAMES, 22, 22, 16)),
        "attention of the video": (SpaceAttention(32), call, torch.randn(1, FRAMES, 11, 11, 32)),
        "first convolutions of the video": (DPLipCoder(), stems, torch.randn(1, FRAMES, 88, 88)),
    }


def measure(layer: nn.Module, call: Callable[[nn.Module, Tensor], Tensor], x: Tensor) -> tuple[float, float]:
    """Milliseconds of inference, and of forward and backward."""

    def infer() -> None:
        with torch.inference_mode():
            call(layer.eval(), x)

    def learn() -> None:
        call(layer.train(), x).sum().backward()

    return tuple(1e3 * least_cpu_s(function, 2) for function in (infer, learn))


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    native.takes()  # compile now
    print(f"Kernels: {native.status()}\n")
    print("| layer | inference ms, PyTorch | kernels | times | training ms, PyTorch | kernels | times |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, case in cases().items():
        least = {"0": [float("inf")] * 2, "1": [float("inf")] * 2}
        for _ in range(RUNS):
            for wanted, found in least.items():
                os.environ["LIPSEP_NATIVE"] = wanted
                native._library.cache_clear()
                least[wanted] = [min(pair) for pair in zip(found, measure(*case), strict=True)]
        columns = [f"{a:.1f} | {b:.1f} | {a / b:.1f}" for a, b in zip(least["0"], least["1"], strict=True)]
        print(f"| {name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
