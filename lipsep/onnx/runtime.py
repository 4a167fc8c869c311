"""A graph that `lipsep export` wrote, run by ONNX Runtime on processor threads, in a model's place."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.errors import ModelError, WeightsError, install_line
from lipsep.models.base import SeparationModel

if TYPE_CHECKING:
    import onnxruntime

FORMAT = "1"
SUFFIX = ".onnx"


@dataclass(frozen=True)
class GraphConfig:
    """What a graph's metadata say of its inputs."""

    lip_size: int  # pixels
    lip_recipe: str  # how lip pictures are made (lipsep.lips.reading)
    n_src: int  # faces that go through the graph together
    face_size: int  # pixels, of pictures of faces; 0: it takes none
    frames_step: int  # video frames; lengths are multiples of it
    frames_least: int
    frames_most: int


class OnnxModel(SeparationModel):
    """An exported model; `forward` is that of any other, but has no gradients and stays on the processor.

    Lengths that the graph does not take are filled up with silence and blank pictures, and cut off again.

    Args:
        file: written by `lipsep export`.

    Raises:
        WeightsError: no such file, or a damaged one. ModelError: a graph that something else wrote.
    """

    processor_only = True
    faces_at_once: bool
    needs_faces: bool

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise WeightsError(f"there is no file '{file}': write it with  lipsep export MODEL -o '{file}'")
        content = file.read_bytes()
        session = open_session(content, str(file))
        card = session.get_modelmeta().custom_metadata_map
        config = _config(card, file)
        super().__init__(config, lip_recipe=config.lip_recipe, keeps_level=card["keeps_level"] == "1")
        self.faces_at_once, self.needs_faces = card["faces_at_once"] == "1", config.face_size > 0
        self.name = card["model"]
        self.metadata = {"licence": card["licence"], "provenance": card["provenance"], "runtime": "onnx"}
        self._session, self._n_parameters = session, int(card["parameters"])
        digest = torch.tensor(list(hashlib.sha256(content).digest()), dtype=torch.uint8)
        self.register_buffer("digest", digest)  # stands for the weights where two models are told apart

    @property
    def n_parameters(self) -> int:
        return self._n_parameters

    def to(self, *args: Any, **kwargs: Any) -> OnnxModel:
        device = torch.device(kwargs.get("device", args[0] if args else "cpu"))
        if device.type != "cpu":
            raise ModelError(f"'{self.name}' is an ONNX graph, which runs on the processor: use --device cpu")
        return self

    def forward(self, mixture: Tensor, lips: Tensor, faces: Tensor | None = None) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S) or (B, n_src, F, S, S) -> (B, n_src, T)."""
        config = self.config
        self.check_inputs(mixture, lips, config.lip_size)
        self.check_faces(mixture, faces)
        n_samples, n_frames = mixture.shape[1], lips.shape[-3]
        wanted = max(n_frames, -(-n_samples // SAMPLES_PER_FRAME), config.frames_least)
        wanted = -(-wanted // config.frames_step) * config.frames_step
        if wanted > config.frames_most:
            raise ModelError(
                f"got {n_samples / SAMPLE_RATE:g} s of sound; the graph of '{self.name}' takes at most "
                f"{config.frames_most / FPS:g} s at once: use shorter windows"
            )
        inputs = {
            "mixture": F.pad(mixture, (0, wanted * SAMPLES_PER_FRAME - n_samples)),
            "lips": F.pad(lips, (0, 0, 0, 0, 0, wanted - n_frames)),
        }
        if faces is not None:
            inputs["faces"] = faces
        (voices,) = self._session.run(None, {name: x.numpy() for name, x in inputs.items()})
        return torch.from_numpy(voices)[..., :n_samples]


def open_session(content: bytes, name: str) -> onnxruntime.InferenceSession:
    """ONNX Runtime on as many processor threads as PyTorch has; they sleep while they wait.

    Raises:
        WeightsError: the bytes are no graph that this ONNX Runtime knows. ModelError: it is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModelError(f"running '{name}' needs onnxruntime: run  {install_line('onnx')}") from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors alone; they come as exceptions
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own kinds, which derive from nothing in common
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"'{name}' is damaged, or no ONNX graph ({reason}): export it again") from error


def _config(card: dict[str, str], file: Path) -> GraphConfig:
    if card.get("lipsep") != FORMAT:
        found = f"format {card['lipsep']}" if "lipsep" in card else "no lipsep metadata"
        raise ModelError(
            f"'{file}' has {found}, format {FORMAT} is needed: only graphs that this version's 'lipsep export' wrote "
            "can be run"
        )
    numbers = ("lip_size", "face_size", "frames_step", "frames_least", "frames_most")
    return GraphConfig(
        lip_recipe=card["lip_recipe"], n_src=int(card["n_faces"]), **{name: int(card[name]) for name in numbers}
    )
