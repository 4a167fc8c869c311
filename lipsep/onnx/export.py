"""A separation model as an ONNX graph of dynamic length.

The graph's lengths come in steps (`Lengths`) at which every resolution of the network is a whole number of steps, so
that nothing in it depends on remainders. It is written by PyTorch's tracing exporter: the newer one, which reasons
about lengths symbolically, does not get through the nested divisions of a U-net's lengths. While it is written, every
operation takes its exported form (`lipsep.kernels.exporting`). What tracing fixes that should not be fixed is found by
the comparison with PyTorch at three lengths and two batches, without which nothing is written.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.errors import ModelError
from lipsep.kernels.exporting import exporting
from lipsep.kernels.recurrence import EXPORTED
from lipsep.models.base import SeparationModel
from lipsep.onnx.runtime import FORMAT, open_session
from lipsep.system.outputs import whole_file
from lipsep.version import __version__

OPSET = 20
MAX_FRAMES = 200
"""8 s: the logits of all heads then take 128 MB in a published Dolphin, and grow with the square of the length."""
TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2}
"""Precision of the weights -> largest difference from PyTorch that is let through, relative to the output's peak."""
PRECISIONS = tuple(TOLERANCES)
SMALL = 256
"""Numbers up to which a tensor stays in 32 bits: norms, biases, shapes."""


@dataclass(frozen=True)
class Lengths:
    """Which inputs a graph takes: F video frames and 640 F samples, F a multiple of `step` from `least` to `most`."""

    step: int
    least: int
    most: int

    @classmethod
    def of(cls, model: SeparationModel) -> Lengths:
        """The lengths at which no layer of `model` has a remainder.

        Raises:
            ModelError: a filter bank's stride does not divide a video frame.
        """
        step, config = 4, model.config
        if hasattr(config, "n_stages") and hasattr(config, "audio_stride"):  # halvings of the filter bank's steps
            if SAMPLES_PER_FRAME % config.audio_stride:
                raise ModelError(
                    f"audio_stride={config.audio_stride} does not divide a video frame of {SAMPLES_PER_FRAME} samples: "
                    "such a model cannot be exported"
                )
            halved = 2**config.n_stages
            step = math.lcm(step, halved // math.gcd(halved, SAMPLES_PER_FRAME // config.audio_stride))
        if hasattr(config, "visual_scales"):
            step = math.lcm(step, 2 ** (config.visual_scales - 1))
        return cls(step, 2 * step, MAX_FRAMES // step * step)

    def three(self) -> tuple[int, int, int]:
        """Numbers of frames at which a graph is checked: the least, one in between, about 4 s."""
        middle = self.step * (self.least // self.step + 7)
        return self.least, middle, min(self.most, 4 * FPS // self.step * self.step)

    def __str__(self) -> str:
        shown = (f"{frames / FPS:g}" for frames in (self.least, self.most, self.step))
        return "{} to {} s in steps of {} s".format(*shown)


def export_onnx(model: SeparationModel, file: Path, precision: str = "fp32") -> tuple[Lengths, float]:
    """Write `model` to `file`, checked against PyTorch at three lengths and two batches.

    The graph has inputs `mixture` (B, 640 F), `lips` (B, F, S, S), or (B, n_src, F, S, S) where the model takes several
    faces at once, and `faces` where it needs them, and the output `voices` (B, n_src, 640 F). What else one needs to
    use it (lip recipe, rates, lengths, licence) stands in its metadata; see `lipsep.onnx.runtime`.

    Args:
        precision: "fp32", or "fp16": weights are stored in 16 bits, which halves the file; computed is in 32.

    Returns:
        The lengths it takes, and the largest difference from PyTorch relative to the output's peak.

    Raises:
        ModelError: an unknown precision, layers that ONNX cannot express, or a graph that does not compute the same.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"precision '{precision}' is not a choice: use {' or '.join(PRECISIONS)}")
    lengths = Lengths.of(model)
    with whole_file(file) as written:
        _write_graph(model, lengths, written, precision)
        error = largest_difference(model, written, lengths)
        if not error <= TOLERANCES[precision]:
            raise ModelError(
                f"the graph of '{model.name}' differs from PyTorch by {error:.1e} of the peak, at most "
                f"{TOLERANCES[precision]:g} is let through: nothing is written; use --runtime torch"
            )
    return lengths, error


def _write_graph(model: SeparationModel, lengths: Lengths, file: Path, precision: str) -> None:
    inputs = example(model, lengths.three()[1], batch=2)
    names = ["mixture", "lips", "faces"][: len(inputs)]
    frames = 2 if model.faces_at_once else 1
    axes = {name: {0: "batch"} for name in (*names, "voices")}
    axes["mixture"][1] = axes["voices"][2] = "samples"
    axes["lips"][frames] = "frames"
    try:
        with warnings.catch_warnings(), torch.no_grad(), exporting():
            warnings.simplefilter("ignore")  # of tracing: what it fixes is compared below; and that it is the older way
            torch.onnx.export(
                model,
                inputs,
                str(file),
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=["voices"],
                dynamic_axes=axes,
                custom_opsets={EXPORTED[0]: 1},
            )
    except Exception as error:  # the exporter raises many kinds
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"'{model.name}' cannot be exported ({reason}): use --runtime torch") from error
    graph = onnx.load(file)
    graph.functions.append(scan_function())
    onnx.save(graph, file)
    fold_constants(file)
    graph = onnx.load(file)
    if precision == "fp16":
        _store_in_16_bits(graph)
    onnx.helper.set_model_props(graph, {key: str(value) for key, value in _card(model, lengths, precision).items()})
    onnx.save(graph, file)


def scan_function() -> onnx.FunctionProto:
    """What `lipsep.kernels.recurrence.scan` computes, as ONNX's own operator for sequences; graphs get it in place."""
    make, number = onnx.helper.make_node, onnx.TensorProto.FLOAT
    step = onnx.helper.make_graph(
        [
            make("Mul", ["v", "carry"], ["carried"]),
            make("Add", ["a_t", "carried"], ["gate"]),
            make("Sigmoid", ["gate"], ["forget"]),
            make("Sub", ["carry", "z_t"], ["excess"]),
            make("Mul", ["forget", "excess"], ["kept"]),
            make("Add", ["z_t", "kept"], ["next"]),
            make("Identity", ["next"], ["out"]),
            make("Identity", ["v"], ["same_v"]),
        ],
        "step",
        [onnx.helper.make_tensor_value_info(name, number, None) for name in ("carry", "v", "z_t", "a_t")],
        [onnx.helper.make_tensor_value_info(name, number, None) for name in ("next", "same_v", "out")],
    )
    steps = make("Scan", ["start", "v", "z", "a"], ["last", "v_last", "carries"], body=step, num_scan_inputs=2)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_function(*EXPORTED, ["z", "a", "v", "start"], ["carries"], [steps], opset)


def fold_constants(file: Path) -> None:
    """Let ONNX Runtime simplify a graph once and for all: most of the arithmetic on shapes that tracing leaves goes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # standard operators alone
    options.optimized_model_filepath, options.log_severity_level = str(file), 3
    onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])


def _store_in_16_bits(graph: onnx.ModelProto) -> None:
    """Large tensors in 16 bits, each followed by a cast, which ONNX Runtime does once when it loads the graph."""
    casts = []
    for tensor in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size <= SMALL:
            continue
        name, tensor.name = tensor.name, f"{tensor.name}.fp16"
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.graph.node.insert(0, cast)


def _card(model: SeparationModel, lengths: Lengths, precision: str) -> dict[str, object]:
    """What a graph says of itself."""
    return {
        "lipsep": FORMAT,
        "written_by": f"lipsep {__version__}",
        "model": model.name,
        "lip_recipe": model.lip_recipe,
        "lip_size": model.config.lip_size,
        "keeps_level": int(model.keeps_level),
        "faces_at_once": int(model.faces_at_once),
        "n_faces": model.n_faces,
        "face_size": model.config.face_size if model.needs_faces else 0,
        "sample_rate": SAMPLE_RATE,
        "fps": FPS,
        "precision": precision,
        "frames_step": lengths.step,
        "frames_least": lengths.least,
        "frames_most": lengths.most,
        "parameters": model.n_parameters,
        **{key: model.metadata.get(key, "not stated") for key in ("licence", "provenance")},
    }


def example(model: SeparationModel, n_frames: int, batch: int) -> tuple[Tensor, ...]:
    """Noise of speech's level, noise for lips and, where the model needs them, for faces; see `export_onnx`."""
    generator = torch.Generator().manual_seed(n_frames)
    size, people = model.config.lip_size, (model.n_faces,) if model.faces_at_once else ()
    inputs = (
        0.1 * torch.randn(batch, n_frames * SAMPLES_PER_FRAME, generator=generator),
        torch.randn(batch, *people, n_frames, size, size, generator=generator),
    )
    if not model.needs_faces:
        return inputs
    face_size = model.config.face_size
    return *inputs, torch.randn(batch, *people, 3, face_size, face_size, generator=generator)


def largest_difference(model: SeparationModel, file: Path, lengths: Lengths) -> float:
    """Between graph and PyTorch at three lengths, relative to the output's peak."""
    session, worst = open_session(file.read_bytes(), file.name), 0.0
    for n_frames, batch in zip(lengths.three(), (1, 2, 1), strict=True):
        inputs = example(model, n_frames, batch)
        with torch.inference_mode():
            wanted = model(*inputs)
        named = zip(session.get_inputs(), inputs, strict=True)
        try:
            (voices,) = session.run(None, {entry.name: x.numpy() for entry, x in named})
        except Exception as error:  # onnxruntime has its own kinds, which derive from nothing in common
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"the graph of '{model.name}' runs at one length only ({reason}): nothing is written; "
                "use --runtime torch"
            ) from error
        worst = max(worst, float((torch.from_numpy(voices) - wanted).abs().max() / wanted.abs().max()))
    return worst
