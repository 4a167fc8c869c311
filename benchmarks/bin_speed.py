"""What BIN costs on one thread against the same network written down plainly (plain_bin.py), in the same run.

    python benchmarks/bin_speed.py                  # 12 iterations, 2 s, two voices
    python benchmarks/bin_speed.py --iterations 8 --seconds 1 --runs 5

Time is processor time of one thread, the least of several runs, the two networks in turn. A training step is forward,
loss and backward of one mixture; ours computes all but the last ten iterations again in the backward pass
(`recompute`), or keeps all.
Memory is the growth of the resident set's peak during the first training step of a fresh process, in which glibc gives
freed blocks back at once, so that holes in the heap do not count. Exits with 1 when ours is not at least twice as
cheap, or when 16 iterations need more than half more memory in training than 8.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from dolphin_speed import least_cpu_s, status_kb
from plain_bin import PlainBIN
from torch import Tensor, nn

from lipsep.losses import negative_si_snr
from lipsep.models import create_model

MIN_GAIN, MAX_MEMORY_RATIO = 2.0, 1.5


def inputs(seconds: float) -> tuple[Tensor, Tensor]:
    """A mixture and latents of two faces."""
    return torch.randn(1, round(16_000 * seconds)), torch.randn(1, 2, round(25 * seconds), 1024)


def networks(iterations: int) -> dict[str, tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]]:
    """Name -> the network, and how it separates."""
    plain = PlainBIN(iterations)
    found: dict[str, tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]] = {"plain": (plain, plain)}
    for name, recompute in (("lipsep", True), ("lipsep, all kept", False)):
        model = create_model("bin_12", iterations=iterations, recompute=recompute)
        found[name] = model, model.separate
    return found


def training_step(network: nn.Module, separate: Callable[[Tensor, Tensor], Tensor], seconds: float) -> None:
    """Forward, loss and backward; gradients are left behind, as in training."""
    network.train().zero_grad()
    mixture, latents = inputs(seconds)
    negative_si_snr(separate(mixture, latents), torch.randn(1, 2, mixture.shape[1])).backward()


def training_memory_mib(iterations: int, seconds: float, name: str = "lipsep") -> float:
    """Growth of the peak of the resident set during one training step, in a fresh process."""
    arguments = ["--memory-of", name, "--iterations", str(iterations), "--seconds", str(seconds)]
    command = [sys.executable, __file__, *arguments]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of the mixture")
    parser.add_argument("--runs", type=int, default=3, help="runs of which the least counts")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = networks(options.iterations)
    if options.memory_of:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
        before = status_kb("VmRSS")
        training_step(*found[options.memory_of], options.seconds)
        print((status_kb("VmHWM") - before) / 1024)
        return 0

    mixture, latents = inputs(options.seconds)
    inference, training = dict.fromkeys(found, float("inf")), dict.fromkeys(found, float("inf"))
    for _ in range(options.runs):
        for name, (network, separate) in found.items():
            network.eval()
            with torch.inference_mode():
                if network is not found["plain"][0]:
                    network.prepare_for_inference()
                inference[name] = min(inference[name], least_cpu_s(partial(separate, mixture, latents), 1))
            step = least_cpu_s(partial(training_step, network, separate, options.seconds), 1)
            training[name] = min(training[name], step)
    memory = {
        name: [training_memory_mib(iterations, options.seconds, name) for iterations in (8, 16)] for name in found
    }
    print(f"BIN, {options.iterations} iterations, {options.seconds:g} s, two voices, one thread")
    for name in found:
        print(
            f"{name:16s}  inference {inference[name]:.2f} s ({inference['plain'] / inference[name]:.2f}x)   "
            f"training step {training[name]:.2f} s ({training['plain'] / training[name]:.2f}x)   "
            f"training memory {memory[name][0]:.0f} MiB at 8, {memory[name][1]:.0f} MiB at 16 iterations "
            f"({memory[name][1] / memory[name][0]:.2f}x)"
        )
    cheap = all(cost["plain"] >= MIN_GAIN * cost["lipsep"] for cost in (inference, training))
    return 0 if cheap and memory["lipsep"][1] <= MAX_MEMORY_RATIO * memory["lipsep"][0] else 1


if __name__ == "__main__":
    sys.exit(main())
