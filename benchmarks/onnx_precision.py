"""What ONNX Runtime and fewer bits cost in quality, and what they gain in size and speed.

    python benchmarks/onnx_precision.py FOLDER_WITH_grid_s1 [--model voices_first] [--mixtures 30]

Scores the first mixtures of recipes/laptop/unseen_sentences.csv with PyTorch and with graphs of several precisions, and
times each in the same run: processor time of one thread per second of sound, the least of several passes over 4 s.
Exits with 1 when a precision that `lipsep export` offers loses more than 0.2 dB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from dolphin_speed import least_cpu_s
from onnxruntime.quantization import QuantType, quantize_dynamic

from lipsep.checkpoints.folder import load_model
from lipsep.evaluation.cases import Case, open_cases
from lipsep.evaluation.evaluate import separate_case
from lipsep.losses import si_snr
from lipsep.models import SeparationModel
from lipsep.onnx.export import PRECISIONS, example, export_onnx

MANIFEST = Path(__file__).parents[1] / "recipes/laptop/unseen_sentences.csv"
MAX_LOSS_DB = 0.2
FRAMES = 100  # 4 s


def mean_gain_db(model: SeparationModel, cases: list[Case]) -> float:
    """SI-SNRi of all voices."""
    gains = []
    for case in cases:
        wanted, mixture = torch.from_numpy(case.references), torch.from_numpy(case.mixture)
        found = torch.from_numpy(separate_case(model, case))
        gains.append((si_snr(found, wanted) - si_snr(mixture.expand_as(wanted), wanted)).mean())
    return float(np.mean(gains))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--model", default="voices_first")
    parser.add_argument("--mixtures", type=int, default=30)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        cases = open_cases(MANIFEST, options.root, model.lip_recipe, Path(folder), slice(options.mixtures))
        for what in cases.preparations():
            cases.prepare(what)
        loaded = [cases.load(index) for index in range(len(cases.names))]
        variants = {"PyTorch fp32": None}
        for precision in PRECISIONS:
            variants[f"ONNX {precision}"] = Path(folder) / f"{precision}.onnx"
            export_onnx(model, variants[f"ONNX {precision}"], precision)
        variants["ONNX int8 (not offered)"] = Path(folder) / "int8.onnx"
        quantize_dynamic(
            variants["ONNX fp32"], variants["ONNX int8 (not offered)"], per_channel=True, weight_type=QuantType.QInt8
        )
        inputs = example(model, FRAMES, batch=1)
        print(f"{options.model}, {len(loaded)} mixtures, one thread\n")
        print("| runtime | SI-SNRi dB | loss dB | file MB | CPU s per s of sound |")
        print("|---|---|---|---|---|")
        reference, missed = None, []
        for name, file in variants.items():
            variant = load_model(file or options.model).prepare_for_inference()
            with torch.inference_mode():
                gain = mean_gain_db(variant, loaded)
                cost = least_cpu_s(lambda: variant(*inputs), options.runs) / (FRAMES / 25)  # noqa: B023, runs at once
            reference = gain if reference is None else reference
            size = file.stat().st_size if file else sum(4 * p.numel() for p in variant.parameters())
            print(f"| {name} | {gain:.2f} | {reference - gain:.3f} | {size / 1e6:.1f} | {cost:.4f} |", flush=True)
            if "not offered" not in name and reference - gain > MAX_LOSS_DB:
                missed.append(name)
    print("\n" + "\n".join(f"MISSED: {name} loses more than {MAX_LOSS_DB} dB" for name in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
