"""Latency and memory of one forward pass, measured in a process of its own, so that no model profits or suffers from
what ran before it.

    python -m lipsep.profiling.measuring '{"model": "dolphin", "seconds": 1, "batch": 1, "threads": 1, "runs": 5}'

Wall times are given as median and range, because machines are shared; processor time as the least of all runs, which
other programs disturb least. Memory is the growth of the resident set's peak during the first pass over what the
process held with the model built; on a GPU, what torch allocated at most, the model included.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lipsep.constants import SAMPLE_RATE
from lipsep.errors import ModelError


@dataclass(frozen=True)
class Setup:
    """What is measured: a registered model, or the name or folder of weights.

    Attributes:
        seconds: length of the mixture.
        batch: mixtures (times people in them, for models that take all faces at once) per pass.
        threads: processor threads of torch.
        runs: timed passes after the first.
    """

    model: str
    seconds: float = 1.0
    batch: int = 1
    threads: int = 1
    runs: int = 5


@dataclass(frozen=True)
class Measured:
    """Milliseconds as (median, least, most); megabytes (1e6); None where it was not run or the system does not tell."""

    cpu_ms: tuple[float, float, float]
    cpu_time_ms: float
    ram_mb: float | None
    gpu_ms: tuple[float, float, float] | None
    gpu_mb: float | None
    gpu: str | None


def measure(setup: Setup) -> Measured:
    """Measure in a fresh process.

    Raises:
        ModelError: the process failed; the message is its last line.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(setup.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "lipsep.profiling.measuring", json.dumps(asdict(setup))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, out of memory?"])[-1]
        raise ModelError(f"measuring '{setup.model}' at {setup.seconds:g} s failed: {said}")
    values = json.loads(done.stdout.splitlines()[-1])
    for key in ("cpu_ms", "gpu_ms"):
        values[key] = tuple(values[key]) if values[key] else None
    return Measured(**values)


def measure_here(setup: Setup) -> Measured:
    """Measure in this process."""
    import torch

    from lipsep.checkpoints.folder import load_model
    from lipsep.models import create_model, list_models
    from lipsep.profiling.counting import example_inputs

    torch.set_num_threads(setup.threads)
    torch.manual_seed(0)
    model = create_model(setup.model) if setup.model in list_models() else load_model(setup.model)
    model.prepare_for_inference()
    inputs = example_inputs(model, round(setup.seconds * SAMPLE_RATE), setup.batch)
    with torch.inference_mode():
        before = _forget_peak()
        model(*inputs)
        peak = _status_mb("VmHWM")
        wall, processor = [], []
        for _ in range(setup.runs):
            start, start_processor = time.perf_counter(), time.process_time()
            model(*inputs)
            wall.append(1e3 * (time.perf_counter() - start))
            processor.append(1e3 * (time.process_time() - start_processor))
        gpu_ms = gpu_mb = gpu = None
        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_name()
            model, on_gpu, times = model.cuda(), [x.cuda() for x in inputs], []
            model(*on_gpu)
            torch.cuda.reset_peak_memory_stats()
            for _ in range(4 * setup.runs):
                torch.cuda.synchronize()
                start = time.perf_counter()
                model(*on_gpu)
                torch.cuda.synchronize()
                times.append(1e3 * (time.perf_counter() - start))
            gpu_ms, gpu_mb = _spread(times), torch.cuda.max_memory_allocated() / 1e6
    grown = None if before is None or peak is None else peak - before
    return Measured(_spread(wall), min(processor), grown, gpu_ms, gpu_mb, gpu)


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def _forget_peak() -> float | None:
    """Let the resident set's peak start anew: what is resident now, in MB; None where the system cannot (not Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status_mb("VmRSS")


def _status_mb(field: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(asdict(measure_here(Setup(**json.loads(sys.argv[1]))))))
