"""CPU time per picture (40 ms) of a stream, beside the same model on the whole recording.

    python benchmarks/streaming.py [--models swiftnet_6 swiftnet_12] [--seconds 6] [--pieces 1 2 3 5]

Process CPU time on one thread, random weights, one person. Counted are the last third of the stream's pieces, when
attention reaches as far back as it may (4 s). Exits with 1 where the pieces of `lipsep separate --streaming` take
longer than they last.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch

from lipsep.constants import FPS, SAMPLES_PER_FRAME
from lipsep.models import create_model
from lipsep.models.swiftnet import SwiftNet
from lipsep.separation.streaming import PICTURES_AT_ONCE, Stream


def stream_ms(model: SwiftNet, sound: torch.Tensor, lips: torch.Tensor, n_pictures: int) -> np.ndarray:
    """CPU time per picture of each piece of `n_pictures`."""
    stream, spent_ms = Stream(model), []
    for first in range(0, lips.shape[1] - n_pictures + 1, n_pictures):
        piece = sound[:, first * SAMPLES_PER_FRAME : (first + n_pictures) * SAMPLES_PER_FRAME]
        start = time.process_time()
        stream.push(piece, lips[:, first : first + n_pictures])
        spent_ms.append(1000 * (time.process_time() - start) / n_pictures)
    return np.array(spent_ms)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["swiftnet_6", "swiftnet_12"])
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--pieces", nargs="+", type=int, default=[1, 2, 3, 5], help="pictures in a piece")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keeps_up = True
    print("model         piece ms  latency ms  CPU ms per picture: median  95 %")
    for name in arguments.models:
        model = create_model(name).prepare_for_inference()
        size, n_pictures = model.config.lip_size, arguments.seconds * FPS
        sound, lips = torch.randn(1, n_pictures * SAMPLES_PER_FRAME), torch.randn(1, n_pictures, size, size)
        for piece in arguments.pieces:
            spent_ms = stream_ms(model, sound, lips, piece)
            median, high = np.percentile(spent_ms[-len(spent_ms) // 3 :], [50, 95])
            piece_ms = piece * 1000 / FPS
            print(
                f"{name:<13} {piece_ms:8.0f} {Stream(model).latency_ms + piece_ms:11.0f} {median:27.1f} {high:5.1f}",
                flush=True,
            )
            if piece == PICTURES_AT_ONCE:
                keeps_up = keeps_up and median < 1000 / FPS
        with torch.inference_mode():
            model(sound, lips)
            start = time.process_time()
            model(sound, lips)
        print(f"{name:<13} whole recording {1000 * (time.process_time() - start) / n_pictures:32.1f}", flush=True)
    return 0 if keeps_up else 1


if __name__ == "__main__":
    sys.exit(main())
