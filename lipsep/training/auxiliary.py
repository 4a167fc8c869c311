"""Dolphin's auxiliary branch: an early decoder layer must be able to say the voice too. It exists in training only.

The coarsest decoder layer's output (D3 in the paper: an eighth of the encoder's rate where Q = 4) is stretched to the
encoder's rate and goes through an output layer and a filter bank of its own; magnitude SI-SNR compares the result with
the voice (`lipsep.losses.magnitude_si_snr`). No code of this branch was released, so its layers are those that the
network has at its end. The exported model knows nothing of it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lipsep.errors import ModelError
from lipsep.layers.channels_last import stretch_to
from lipsep.models.base import SeparationModel
from lipsep.models.dolphin import AudioDecoder, Dolphin, OutputLayer


class AuxiliaryBranch(nn.Module):
    """Listens to a Dolphin while it runs; asked afterwards, gives the voice that layer D3 would say.

    Shape: () -> (B, 1, T'), T' the length that the filter bank covers, at most 3 samples short of the mixture.
    """

    def __init__(self, model: SeparationModel) -> None:
        """
        Raises:
            ModelError: the model is not a Dolphin.
        """
        super().__init__()
        if not isinstance(model, Dolphin):
            raise ModelError(f"recipe: auxiliary_weight needs a Dolphin with its decoder layers, not '{model.name}'")
        c = model.config
        self.output_layer = OutputLayer(c.channels, c.audio_channels, c.masking)
        self.audio_decoder = AudioDecoder(c.audio_channels, c.audio_kernel, c.audio_stride)
        self.stretch = 2 ** (c.n_stages - 1)
        self._heard: dict[str, Tensor] = {}
        model.audio_encoder.register_forward_hook(self._listen("encoded"))
        model.separator.decoder[0].register_forward_hook(self._listen("coarsest"))

    def forward(self) -> Tensor:
        encoded, coarsest = self._heard.pop("encoded"), self._heard.pop("coarsest")  # (B, T, N), (B, T' / 8, C)
        x = stretch_to(coarsest, coarsest.shape[1] * self.stretch)[:, : encoded.shape[1]]  # (B, T, C)
        return self.audio_decoder(self.output_layer(x, encoded)).unsqueeze(1)

    def _listen(self, what: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Tensor) -> None:
            if module.training:
                self._heard[what] = output

        return hook


def auxiliary_weight(epoch: int, first: float) -> float:
    """Lambda of the epoch (counted from 0): the first value for 80 epochs, then times 0.8 every 5 epochs."""
    return first * 0.8 ** max(0, (epoch - 80) // 5 + 1)
