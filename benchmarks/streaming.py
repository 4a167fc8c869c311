"""CPU time per picture (40 ms) of a stream, beside the same model on the whole recording.

    python benchmarks/streaming.py [--models swiftnet_6 swiftnet_12] [--seconds 3]

Process CPU time on one thread, random weights, one person; the first second of the stream warms up and is not counted.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.models import create_model
from lipsep.streaming import Stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["swiftnet_6", "swiftnet_12"])
    parser.add_argument("--seconds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n_pictures = arguments.seconds * FPS
    print("model         window ms  piece + window ms  CPU ms per picture: median  95 %  whole recording")
    for name in arguments.models:
        model = create_model(name).prepare_for_inference()
        size = model.config.lip_size
        sound, lips = torch.randn(1, n_pictures * SAMPLES_PER_FRAME), torch.randn(1, n_pictures, size, size)
        stream, spent_ms = Stream(model), []
        for i in range(n_pictures):
            start = time.process_time()
            stream.push(sound[:, i * SAMPLES_PER_FRAME : (i + 1) * SAMPLES_PER_FRAME], lips[:, i : i + 1])
            spent_ms.append(1000 * (time.process_time() - start))
        start = time.process_time()
        with torch.inference_mode():
            model(sound, lips)
        whole_ms = 1000 * (time.process_time() - start) / n_pictures
        window_ms = 1000 * stream.n_fft / SAMPLE_RATE
        in_all_ms = stream.latency_ms + 1000 / FPS
        median, high = np.percentile(spent_ms[FPS:], [50, 95])
        print(f"{name:<13} {window_ms:9.0f} {in_all_ms:18.0f} {median:27.1f} {high:5.1f} {whole_ms:16.1f}")


if __name__ == "__main__":
    main()
