"""What Dolphin costs on one thread, as a multiple of the machine's own matrix product, against plain_dolphin.py.

    python benchmarks/dolphin_speed.py                      # 1 to 16 s; the plain form at 1 s; training
    python benchmarks/dolphin_speed.py --seconds 1 4 --plain 1 2 --no-training
    python benchmarks/dolphin_speed.py --seconds --plain --batch 1      # a training step alone; batch 4 takes 20 GB

The plain form is the same network written down as one would, with dense T x T cosine transforms as published.

The floor is 11.5 G multiply-accumulates per second of audio at the rate of a 1024 x 1024 fp32 matrix product that is
measured between the runs. Time is processor time of one thread, the least of several runs, so that a busy machine
disturbs it little. Attention grows with the square of the length, which that floor leaves out; "x executed" is the
same with the multiply-accumulates that are executed at this length. Memory is the growth of the resident set's peak
during the first pass of a fresh process. A training step is forward, loss and backward, the least of two after two that
find their memory. Exits with 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from plain_dolphin import PlainDolphin, plain_dolphin
from torch.utils.flop_counter import FlopCounterMode

from lipsep.losses import negative_si_snr
from lipsep.models import create_model
from lipsep.models.dolphin import Dolphin
from lipsep.system.environment import SETTINGS, keep_freed_memory

FLOOR_GMACS = 11.5  # per second of audio
MAX_FLOORS, MAX_GROWTH, MAX_GB_4S, MAX_GMACS_1S = 2.5, 2.1, 0.5, 11.6
TRAINING_SECONDS, MIN_TRAINING_GAIN = 2.0, 5.0
MATRIX = 1024


def least_cpu_s(function: Callable[[], object], runs: int) -> float:
    """Least processor time of several runs, in seconds."""
    least = math.inf
    for _ in range(runs):
        start = time.process_time()
        function()
        least = min(least, time.process_time() - start)
    return least


def status_kb(field: str) -> int:
    """A number of /proc/self/status in kB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def network(plain: bool) -> Dolphin | PlainDolphin:
    """Fresh weights, but diffusivities as in the golden cases: from 0.1 to 1.9."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = create_model("dolphin")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".k"):
                parameter.uniform_(0.1, 1.9)
    return plain_dolphin(model) if plain else model


def measure(seconds: float, plain: bool, runs: int) -> dict[str, float]:
    """One length in this process."""
    model = network(plain)
    if plain:
        model.eval()
    else:
        model.prepare_for_inference()
    mixture, lips = torch.randn(1, round(16_000 * seconds)), torch.randn(1, round(25 * seconds), 88, 88)
    square = torch.randn(MATRIX, MATRIX)
    with torch.inference_mode():
        for _ in range(5):
            square @ square
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
        before = status_kb("VmRSS")
        model(mixture, lips)
        growth_gb = (status_kb("VmHWM") - before) / 1e6
        least, product = math.inf, math.inf
        for _ in range(runs):
            product = min(product, least_cpu_s(lambda: square @ square, 5))
            least = min(least, least_cpu_s(lambda: model(mixture, lips), 1))
        video = least_cpu_s(lambda: model.video_encoder(lips), max(2, runs // 2))
    rate = MATRIX**3 / product / 1e9
    floor = FLOOR_GMACS * seconds / rate
    return {"cpu_s": least, "video_s": video, "floor_s": floor, "gb": growth_gb, "gflops": 2 * rate}


def measure_training(plain: bool, batch: int) -> dict[str, float]:
    """Steps in this process."""
    model = network(plain).train()

    def step() -> None:
        mixture = torch.randn(batch, round(16_000 * TRAINING_SECONDS))
        lips = torch.randn(batch, round(25 * TRAINING_SECONDS), 88, 88)
        negative_si_snr(model(mixture, lips), torch.randn_like(mixture)[:, None]).backward()

    for _ in range(2):
        step()
    return {"cpu_s": least_cpu_s(step, 2)}


def count_gmacs(seconds: float) -> dict[str, float]:
    """Executed multiply-accumulates in G: torch's counter, plus packed linear maps and Fourier transforms.

    While the counter watches, PyTorch's operators stand in for the compiled kernels, which execute the same.
    """

    def attention(q: list[int], k: list[int], v: list[int], *_: object, **__: object) -> int:
        return 2 * math.prod(q) * k[-2] + 2 * math.prod(q[:-1]) * k[-2] * v[-1]

    def packed_linear(x: list[int], *others: object, **_: object) -> int:
        weight = next(shape for shape in others if len(shape) == 2)  # behind x, or behind what is added to the result
        return 2 * math.prod(x) * weight[0]

    def forward_fft(x: list[int], *_: object, **__: object) -> int:
        return round(2.5 * math.prod(x) * math.log2(x[-1]))  # a real transform: half of 5 N log2 N

    def inverse_fft(x: list[int], _dim: object, _norm: object, length: int, **__: object) -> int:
        return round(2.5 * math.prod(x[:-1]) * length * math.log2(length))

    aten = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.mkldnn._linear_pointwise: packed_linear,
        aten._fft_r2c: forward_fft,
        aten._fft_c2r: inverse_fft,
    }
    model = create_model("dolphin").prepare_for_inference()
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with torch.no_grad(), counter:
        model(torch.randn(1, round(16_000 * seconds)), torch.randn(1, round(25 * seconds), 88, 88))
    by_kind = {"all": counter.get_total_flops() / 2e9}
    for operator, flops in counter.get_flop_counts()["Global"].items():
        by_kind[str(operator).removeprefix("aten.")] = flops / 2e9
    return by_kind


def in_a_fresh_process(plain: bool, *arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, *map(str, arguments), *(["--as-plain"] * plain)]
    environment = {**SETTINGS, **os.environ}  # as in the processes of `lipsep separate`
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="*", default=[1, 2, 4, 8, 16], help="lengths to measure")
    parser.add_argument("--plain", type=float, nargs="*", default=[1], help="lengths of the plain formulation")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the least counts")
    parser.add_argument("--batch", type=int, default=4, help="of the training step")
    parser.add_argument("--no-training", action="store_true", help="leave the training step out")
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--measure-training", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--as-plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure or options.measure_training:
        keep_freed_memory()  # as in the processes of `lipsep separate`
    if options.measure:
        print(json.dumps(measure(options.measure, options.as_plain, options.runs)))
        return 0
    if options.measure_training:
        print(json.dumps(measure_training(options.as_plain, options.batch)))
        return 0

    gmacs = count_gmacs(1)
    parts = ", ".join(f"{kind} {value:.2f}" for kind, value in gmacs.items() if kind != "all")
    print(f"Executed at 1 s: {gmacs['all']:.2f} G multiply-accumulates ({parts}); published as executed: 52.8 G\n")
    print("| input | network | CPU time | of it video | x floor | x executed | memory growth | product GFLOP/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows, missed = {}, []
    for plain, lengths in ((False, options.seconds), (True, options.plain)):
        for seconds in lengths:
            row = rows[plain, seconds] = in_a_fresh_process(plain, "--measure", seconds, "--runs", options.runs)
            kind, floors = "plain" if plain else "shipped", row["cpu_s"] / row["floor_s"]
            executed = "" if plain else f"{row['cpu_s'] * row['gflops'] / 2 / count_gmacs(seconds)['all']:.2f}"
            times = f"{row['cpu_s']:.2f} s | {row['video_s']:.2f} s | {floors:.2f} | {executed}"
            print(f"| {seconds:g} s | {kind} | {times} | {row['gb']:.2f} GB | {row['gflops']:.0f} |", flush=True)
            if not plain and floors > MAX_FLOORS:
                missed.append(f"{seconds:g} s costs {floors:.2f} floors, at most {MAX_FLOORS} wanted")
    for seconds in options.plain:
        if seconds in options.seconds:
            ours, theirs = rows[False, seconds], rows[True, seconds]
            times, sizes = (f"{theirs[key] / ours[key]:.1f}" for key in ("cpu_s", "gb"))
            print(f"\nAt {seconds:g} s the plain form takes {times} times the time and {sizes} times the memory.")
    if (False, 4) in rows and rows[False, 4]["gb"] > MAX_GB_4S:
        missed.append(f"4 s takes {rows[False, 4]['gb']:.2f} GB, at most {MAX_GB_4S} wanted")
    if (False, 4) in rows and (False, 8) in rows:
        growth = rows[False, 8]["cpu_s"] / rows[False, 4]["cpu_s"]
        print(f"8 s costs {growth:.2f} times 4 s.")
        if growth > MAX_GROWTH:
            missed.append(f"8 s costs {growth:.2f} times 4 s, at most {MAX_GROWTH} wanted")
    if not options.no_training:
        step = ("--measure-training", "--batch", options.batch)
        ours, theirs = (in_a_fresh_process(plain, *step)["cpu_s"] for plain in (False, True))
        print(
            f"A training step on {TRAINING_SECONDS:g} s at batch {options.batch}: {ours:.1f} s; "
            f"in the plain form {theirs:.1f} s, {theirs / ours:.1f} times as much."
        )
        if theirs < MIN_TRAINING_GAIN * ours:
            missed.append(f"a training step is {theirs / ours:.1f} times cheaper, at least {MIN_TRAINING_GAIN} wanted")
    if gmacs["all"] > MAX_GMACS_1S:
        missed.append(f"1 s executes {gmacs['all']:.2f} G multiply-accumulates, at most {MAX_GMACS_1S} wanted")
    print("\n" + ("\n".join(f"MISSED: {line}" for line in missed) or "All limits kept."))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
