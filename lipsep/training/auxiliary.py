"""Dolphin's auxiliary branch: an early decoder layer must be able to say the voice too. It exists in training only.

As the paper has it (appendix D, before Eq. 23): the output D3 of the coarsest decoder layer, an eighth of the encoder's
rate where Q = 4, is stretched to that rate, goes through a convolution and a ReLU, is multiplied with the encoded
mixture X, and becomes sound in the audio decoder, the network's own. Magnitude SI-SNR compares that with the voice
(`lipsep.losses.magnitude_si_snr`). The paper names neither the way of stretching nor the convolution's length: nearest
neighbour and 1, as elsewhere in the network. The exported model knows nothing of it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lipsep.errors import ModelError
from lipsep.kernels.stretching import stretch_to
from lipsep.models.base import SeparationModel
from lipsep.models.dolphin import Dolphin


class AuxiliaryBranch(nn.Module):
    """Listens to a Dolphin while it runs; asked afterwards, gives the voice that layer D3 would say.

    Shape: () -> (B n_src, 1, T'), T' the length that the filter bank covers, at most 3 samples short of the mixture.
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
        self.conv = nn.Linear(c.channels, c.audio_channels)  # pointwise
        self.decoders = (model.audio_decoder,)  # a tuple, so that its weights remain the model's alone
        self.stretch = 2 ** (c.n_stages - 1)
        self._heard: dict[str, Tensor] = {}
        model.audio_encoder.register_forward_hook(self._listen("encoded"))
        model.separator.decoder[0].register_forward_hook(self._listen("coarsest"))

    def forward(self) -> Tensor:
        encoded, d3 = self._heard.pop("encoded"), self._heard.pop("coarsest")  # X (B, T, N), (B n_src, T' / 8, C)
        encoded = encoded.repeat_interleave(len(d3) // len(encoded), 0)  # (B n_src, T, N)
        d3 = stretch_to(d3, d3.shape[1] * self.stretch)[:, : encoded.shape[1]]  # (B n_src, T, C)
        return self.decoders[0](self.conv(d3).relu() * encoded).unsqueeze(1)

    def _listen(self, what: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Tensor) -> None:
            if module.training:
                self._heard[what] = output

        return hook


def auxiliary_weight(epoch: int, first: float) -> float:
    """Lambda of an epoch (Eq. 28): the first value up to epoch 80, from then on times 0.8 after every 5 epochs.

    Epochs count from 0, as the training loop does.
    """
    return first * 0.8 ** max(0, (epoch - 80) // 5)
