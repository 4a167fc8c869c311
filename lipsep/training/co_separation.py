"""VisualVoice's losses: masks that separate, voices that belong to their face, voices that stay themselves.

Two mixtures share a voice on either side: A1 + B and A2 + B, where A1 and A2 are two clips of one talker. Each of the
four estimates is compared with its voice (mask prediction). A network that exists in training only hears from a
spectrogram whose voice it is; by triplets each voice must be nearer to its own face than to the other one
(cross-modal matching), and A's two voices nearer to each other than to B's (speaker consistency).

References: Gao and Grauman, CVPR 2021, arXiv 2101.03149. As the published code has it: B is one clip, heard in both
mixtures; triplets by cosines with a margin of 0.5; every other batch on average they are made of the true voices
instead of the separated ones. Its weights are those of the published training command.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipsep.errors import ModelError
from lipsep.kernels.spectrogram import as_complex, as_pairs
from lipsep.losses import mask_error, triplet
from lipsep.models.base import SeparationModel
from lipsep.models.visualvoice import FaceEncoder, VisualVoice

MATCHING, CONSISTENCY = 0.01, 0.01  # weights beside the errors of the masks
TRUE_VOICES = 0.5  # share of batches
VOICE_CHANNELS = 128  # features of a voice's identity where no face says how many
ROWS = 4  # of an example: A in the first mixture, B in it, A in the second mixture, B in it


class CoSeparation(nn.Module):
    """The sum of the three losses, over batches as `lipsep.data.mixing.co_separation` makes them.

    A model of lips alone has no faces to match with, and learns by the other two.
    """

    def __init__(self, model: SeparationModel) -> None:
        """
        Raises:
            ModelError: the model is no VisualVoice.
        """
        super().__init__()
        if not isinstance(model, VisualVoice):
            raise ModelError(f"recipe: loss co_separation compares VisualVoice's masks; {model.name} has none: use snr")
        self.voice_encoder = FaceEncoder(model.config.face_channels or VOICE_CHANNELS, colours=2)

    def identity_parameters(self, model: VisualVoice) -> list[nn.Parameter]:
        """Those that know faces and voices."""
        faces = [] if model.face_encoder is None else model.face_encoder.parameters()
        return [*faces, *self.parameters()]

    def forward(
        self, model: VisualVoice, mixture: Tensor, lips: Tensor, sources: Tensor, faces: Tensor | None = None
    ) -> Tensor:
        """Shape: mixture (4B, T), lips (4B, F, S, S), sources (4B, 1, T), faces (4B, 3, P, P) -> ()."""
        gain = model.gain(mixture)  # (4B, 1)
        mixed, spoken = model.analyse(mixture * gain), model.analyse(sources[:, 0] * gain)  # (4B, 2, 256, 4 F')
        identity = None if model.face_encoder is None else model.face_encoder(faces)  # (4B, C)
        mask = as_complex(model.mask(mixed, lips, identity))  # (4B, 256, 4 F')
        mixed, spoken = as_complex(mixed), as_complex(spoken)
        loss = ROWS * mask_error(mask, spoken, mixed, model.config.mask_limit)
        of_truth = (torch.rand(2) < TRUE_VOICES).tolist()
        voices = {truth: self._listen(spoken if truth else mask * mixed) for truth in set(of_truth)}
        if identity is not None:
            loss = loss + MATCHING * matching(voices[of_truth[0]], identity.unflatten(0, (-1, ROWS)))
        return loss + CONSISTENCY * consistency(voices[of_truth[1]])

    def _listen(self, spectrum: Tensor) -> Tensor:
        """Whose voices these are: complex (4B, 256, 4 F') -> (B, 4, C)."""
        return self.voice_encoder(as_pairs(spectrum)).unflatten(0, (-1, ROWS))


def matching(voices: Tensor, faces: Tensor) -> Tensor:
    """Each voice against its own face and the other one. Shape: both (B, 4, C) -> ()."""
    others = faces.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)  # B's face for A's voice, and A's for B's
    return sum(triplet(voices[:, k], faces[:, k], others[:, k]) for k in range(ROWS))


def consistency(voices: Tensor) -> Tensor:
    """A's first voice against A's second one, and against B's in either mixture. Shape: (B, 4, C) -> ()."""
    first, other, second, other_again = voices.unbind(1)
    return triplet(first, second, other) + triplet(first, second, other_again)
