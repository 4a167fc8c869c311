"""Processor time of every model for 1 s of sound, beside the published code's as it was measured on such a machine.

    python benchmarks/models_speed.py ../shared/reference/measured.json [--models av_convtasnet ctcnet] [--runs 5]

One thread, random weights, the least of several runs in a fresh process per model (`lipsep.profiling.measuring`); BIN
hears 2 s, as it was measured. Beside each time stand this machine's own matrix product just before it (G
multiply-accumulates per second: other programs slow it down as they slow the model down) and how many times the model
takes as long as that product would for its multiply-accumulates. Exits with 1 where a model is slower than the
published code was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from lipsep.models import create_model
from lipsep.profiling.counting import count_macs
from lipsep.profiling.measuring import Setup, measure

MEASURED_AS = {"avlit_8": "avlit_8 (one output)"}
LISTED = (
    "av_convtasnet", "visualvoice", "avlit_8", "ctcnet", "rtfsnet_12", "iianet", "av_mossformer2", "swiftnet_6",
    "swiftnet_12", "bin_8", "bin_12", "bin_16",
)  # fmt: skip


def product_gmacs() -> float:
    """G multiply-accumulates per second of a large matrix product on one thread, now."""
    a, b = torch.randn(2, 1024, 1024)
    spent = []
    for _ in range(4):
        start = time.process_time()
        a @ b
        spent.append(time.process_time() - start)
    return 1024**3 / min(spent) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, help="measured.json of the published code")
    parser.add_argument("--models", nargs="+", default=LISTED)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(options.measured.read_text())["rows"]
    slower = []
    print("model            published ms   lipsep ms   gain   product G/s   times the product")
    for name in options.models:
        row = rows[MEASURED_AS.get(name, name)]
        seconds, published_ms = float(row[0].split(" s")[0]), row[5]
        gmacs = count_macs(create_model(name), round(16_000 * seconds)).true.total / 1e9
        rate = product_gmacs()
        ms = measure(Setup(name, seconds=seconds, runs=options.runs)).cpu_time_ms
        print(
            f"{name:<16} {published_ms:12.0f} {ms:11.0f} {published_ms / ms:6.2f} {rate:13.1f} "
            f"{ms / (1000 * gmacs / rate):19.2f}",
            flush=True,
        )
        if ms > published_ms:
            slower.append(name)
    if slower:
        print(f"slower than the published code was: {', '.join(slower)}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
