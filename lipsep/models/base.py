"""The contract that every separation model keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lipsep.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.errors import ModelError


class SeparationModel(nn.Module):
    """Separates voices by watching lips: `forward(mixture, lips) -> estimates`, as long as the mixture.

    Shape: mixture (B, T) float at 16 kHz; lips (B, F, H, W) grey at 25 fps, normalised as the lip recipe says, or
    (B, n_src, F, H, W) where `faces_at_once`; estimates (B, n_src, T).
    """

    sample_rate: ClassVar[int] = SAMPLE_RATE
    faces_at_once: ClassVar[bool] = False
    """False: one face per pass, n_src = 1. True: `n_faces` faces together, and output k is the voice of face k."""
    takes_empty_places: ClassVar[bool] = False
    """Where `faces_at_once`: True if training has shown it fewer people than places, the empty ones all zeros."""
    needs_faces: ClassVar[bool] = False
    """True: `forward` takes a third input, one picture of each person's face as `faces.tracks.face_picture` makes it,
    (B, 3, P, P) with P = `config.face_size`, or (B, n_src, 3, P, P) where `faces_at_once`."""
    processor_only: ClassVar[bool] = False
    """True: runs on no other device."""
    dead_parameters: ClassVar[tuple[str, ...]] = ()
    """Shell-style patterns of parameters that the published code creates but that never influence the output."""

    def __init__(self, config: Any, *, lip_recipe: str, keeps_level: bool = False) -> None:
        super().__init__()
        self.config = config
        self.name = type(self).__name__.lower()
        self.lip_recipe = lip_recipe
        self.keeps_level = keeps_level
        """True where training taught the output to have the level that the voice has in the mixture."""
        self.metadata: dict[str, Any] = {}
        """What the checkpoint says of itself: licence, provenance, figures; empty for a fresh model."""

    @property
    def n_faces(self) -> int:
        """Faces that go through the network together: 1, or the `n_src` it was built for where `faces_at_once`."""
        return self.config.n_src if self.faces_at_once else 1

    @property
    def n_parameters(self) -> int:
        """How many numbers training set."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def iterations(self) -> int | None:
        """Passes through a block with shared weights, where their number may be set at any time; else None."""
        return None

    @iterations.setter
    def iterations(self, number: int) -> None:
        raise ModelError(f"{self.name} has no number of iterations to choose: leave it out")

    def video_parts(self) -> tuple[nn.Module, ...]:
        """What a recipe's `frozen_video: true` keeps as it is: the video encoder, unless the model says otherwise."""
        return (self.video_encoder,)

    def prepare_for_inference(self) -> SeparationModel:
        """Switch to evaluation mode and let layers precompute what fixed weights allow; outputs stay the same."""
        self.eval()
        for module in self.modules():
            if module is not self and hasattr(module, "prepare_for_inference"):
                module.prepare_for_inference()
        return self

    def check_inputs(self, mixture: Tensor, lips: Tensor, lip_size: int) -> None:
        """Refuse shapes that would be silently misaligned.

        Raises:
            ModelError: a wrong number of dimensions, batch, picture size, or a number of frames that is more than two
                frames (80 ms) away from `T / 640`.
        """
        lips_form = "(B, n_src, F, H, W)" if self.faces_at_once else "(B, F, H, W)"
        if mixture.ndim != 2 or lips.ndim != (5 if self.faces_at_once else 4) or len(mixture) != len(lips):
            raise ModelError(
                f"got mixture {tuple(mixture.shape)} and lips {tuple(lips.shape)}; "
                f"{self.name} needs mixture (B, T) and lips {lips_form} with the same B"
            )
        if self.faces_at_once and lips.shape[1] != self.n_faces:
            raise ModelError(
                f"got lips of {lips.shape[1]} faces; {self.name} takes {self.n_faces} at once: group them with "
                "lipsep.models.base.face_groups, or build the model for another n_src"
            )
        n_samples, n_frames = mixture.shape[-1], lips.shape[-3]
        if lips.shape[-2:] != (lip_size, lip_size):
            raise ModelError(
                f"got lips of {lips.shape[-2]}x{lips.shape[-1]}; {self.name} needs {lip_size}x{lip_size}, "
                f"as the lip recipe '{self.lip_recipe}' makes them"
            )
        if n_samples < 1 or n_frames < 1 or abs(n_frames - n_samples / SAMPLES_PER_FRAME) > 2:
            raise ModelError(
                f"got {n_samples} samples with {n_frames} video frames; {self.name} needs one frame per "
                f"{SAMPLES_PER_FRAME} samples (25 fps at 16 kHz): crop or pad one of them"
            )

    def check_faces(self, mixture: Tensor, faces: Tensor | None) -> None:
        """Refuse missing or misshapen pictures of faces, where the model needs them.

        Raises:
            ModelError: see above.
        """
        if not self.needs_faces:
            return
        people = (self.n_faces,) if self.faces_at_once else ()
        needed = (len(mixture), *people, 3, self.config.face_size, self.config.face_size)
        if faces is None or faces.shape != needed:
            found = "no faces" if faces is None else f"faces {tuple(faces.shape)}"
            raise ModelError(f"got {found}; {self.name} needs a picture of each face, {needed}")

    @staticmethod
    def fit_length(estimates: Tensor, n_samples: int) -> Tensor:
        """Crop the end, or pad it with zeros, to `n_samples`: (..., T') -> (..., n_samples)."""
        missing = n_samples - estimates.shape[-1]
        return estimates[..., :n_samples] if missing <= 0 else torch.nn.functional.pad(estimates, (0, missing))


def face_groups(people: Sequence[int], n_faces: int) -> list[list[int | None]]:
    """Who goes through a model together, so that everyone is heard whatever number of faces the model takes.

    Groups of `n_faces` in order. The last one is moved back to end with the last person, so that every place is filled
    by somebody who is there; whoever is in two groups counts in the first. Where there are fewer people than places,
    the rest stay empty (None): neutral pictures, and what the model makes of them is dropped.
    """
    n_groups = -(-len(people) // n_faces)
    starts = [max(0, min(n * n_faces, len(people) - n_faces)) for n in range(n_groups)]
    groups = [list(people[start : start + n_faces]) for start in starts]
    return [group + [None] * (n_faces - len(group)) for group in groups]
