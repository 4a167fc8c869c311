"""VisualVoice: what a voice says is in the lips, what it sounds like is in the face.

Ruohan Gao and Kristen Grauman, "VisualVoice: Audio-Visual Speech Separation with Cross-Modal Consistency", CVPR 2021,
arXiv 2101.03149. Checked against a golden output of the published code (facebookresearch/VisualVoice).

In the papers: 77.75 M parameters and 18.2 G MACs for 1 s (Dolphin's Table 4); LRS2-2Mix 11.5 dB SI-SNRi. Here are
66.26 M: the published count has a word classifier behind the lip reader (256,500) and the network for the identity of
voices (11.24 M), which serves the training losses alone (`lipsep.training.co_separation`).

Where paper and code differ, this file follows the code: one face per pass, masks of at most 5 by a scaled tanh, the
last row of the spectrogram left out. The published code works on pieces of 2.55 s (256 columns for 64 frames); here any
length is filled up to four columns per frame, with silence and with the last frame's features.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import encoder_for, shufflenet_tcn
from lipsep.encoders.resnet18_3d import BLOCKS_PER_STAGE, CHANNELS, BasicBlock
from lipsep.kernels.convolution import convolve, folded
from lipsep.kernels.spectrogram import analyse_spectrum, multiply_spectra, synthesise_spectrum
from lipsep.layers.picture_conv import FoldedNorm, PictureConv, conv_norm
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model
from lipsep.models.released import ReleasedFile, register_released, within

N_FFT, WINDOW, HOP = 512, 400, 160  # samples
ROWS = N_FFT // 2  # of the spectrogram that the network sees
COLUMNS_PER_FRAME = 4
QUIETEST = 1e-4  # RMS below which a mixture is not lifted any further


@dataclass(frozen=True)
class VisualVoiceConfig:
    """Sizes of a VisualVoice. Defaults are the published model."""

    channels: int = 64  # of the U-Net's first layer
    mask_limit: float = 5.0  # largest real and imaginary part of a mask
    input_level: float = 0.1  # RMS to which mixtures are brought, and estimates back from it
    face_channels: int = 128  # features of a face's identity; 0: lips alone, the paper's ablation
    face_size: int = 224  # pixels
    video_encoder: str = "shufflenet_tcn"
    lip_size: int | None = None  # pixels; None: what the video encoder was made for
    lip_recipe: str | None = None  # how lip pictures are made (lipsep.lips.reading); None: likewise


# --- Blocks ----------------------------------------------------------------------------------------------------------


class FaceEncoder(nn.Module):
    """ResNet-18 with max pooling: who is speaking. Shape: faces (B, 3, S, S), normalised -> (B, C)."""

    def __init__(self, channels: int, colours: int = 3) -> None:
        super().__init__()
        self.conv = PictureConv(colours, CHANNELS[0], 7, 2, 3, bias=False)
        self.norm = FoldedNorm(self.conv)
        blocks, c_in = [], CHANNELS[0]
        for stage, c_out in enumerate(CHANNELS):
            for block in range(BLOCKS_PER_STAGE):
                stride = 2 if stage and block == 0 else 1
                blocks.append(BasicBlock(c_in, c_out, stride, prelu=False, bias=False))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.embed = nn.Linear(c_in, channels)

    def forward(self, faces: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(faces))), 3, 2, 1)  # (B, 64, S / 4, S / 4)
        return self.embed(self.blocks(x).amax((2, 3)))


def _down(c_in: int, c_out: int) -> nn.Sequential:
    """Half as many rows and columns."""
    return nn.Sequential(*conv_norm(c_in, c_out, 4, 2, 1, bias=True), nn.LeakyReLU(0.2))


def _double_conv(c_in: int, c_out: int) -> nn.Sequential:
    """Half as many rows."""
    layers: list[nn.Module] = []
    for c in (c_in, c_out):
        layers += [*conv_norm(c, c_out, 3, padding=1, bias=True), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.MaxPool2d((2, 1)))


class DoublingConv(PictureConv):
    """Each row twice, then a 3 x 3 convolution. Shape: (B, C, H, W) -> (B, C', 2 H, W).

    The filters' three rows see two rows of the input each, so at inference two rows of sums make both output rows of a
    pair, for two thirds of the multiplications.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1)

    def arrange(self) -> tuple[Tensor, ...]:
        """Filters (2 C', C, 2, 3) of the upper rows and of the lower ones, and their offsets (2 C',)."""
        weight, bias = folded(self.weight, self.bias, *self._norm)
        above, same, below = weight.unbind(2)
        upper, lower = torch.stack([above, same + below], 2), torch.stack([above + same, below], 2)
        return torch.cat([upper, lower]), torch.cat([bias, bias])

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_arranged:
            return super().forward(F.interpolate(x, scale_factor=(2, 1)))
        pairs = convolve(x, *self.arranged(), padding=self.padding).movedim(1, -1)  # (B, H + 1, W, 2 C')
        upper, lower = pairs.chunk(2, dim=-1)
        return torch.stack([upper[:, :-1], lower[:, 1:]], dim=2).flatten(1, 2).movedim(-1, 1)


def _up_rows(c_in: int, c_out: int) -> nn.Sequential:
    """Twice as many rows."""
    conv = DoublingConv(c_in, c_out)
    return nn.Sequential(conv, FoldedNorm(conv), nn.ReLU())


class SpectrogramUNet(nn.Module):
    """From 256 rows down to one, where lips and face join, and back up to a complex mask (Fig. 3).

    Shape: spectrum (B, 2, 256, 4 F), visual (B, C_v, F) -> (B, 2, 256, 4 F) in (-1, 1).
    """

    def __init__(self, channels: int, visual_channels: int) -> None:
        super().__init__()
        c = channels
        self.down = nn.ModuleList(
            [_down(2, c), _down(c, 2 * c), _double_conv(2 * c, 4 * c), _double_conv(4 * c, 8 * c)]
        )
        self.down += [_double_conv(8 * c, 8 * c) for _ in range(4)]
        self.up = nn.ModuleList([_up_rows(8 * c + visual_channels, 8 * c)])
        self.up += [_up_rows(16 * c, 8 * c) for _ in range(3)]
        self.up += [_up_rows(16 * c, 4 * c), _up_rows(8 * c, 2 * c)]
        unpool = nn.ConvTranspose2d(4 * c, c, 4, 2, 1)
        self.up += [nn.Sequential(unpool, nn.BatchNorm2d(c), nn.ReLU())]
        self.up += [nn.Sequential(nn.ConvTranspose2d(2 * c, 2, 4, 2, 1))]

    def forward(self, spectrum: Tensor, visual: Tensor) -> Tensor:
        x, skips = spectrum, []
        for layer in self.down:
            x = layer(x)
            skips.append(x)  # (B, c, 128, 2 F), (B, 2 c, 64, F), (B, 4 c, 32, F), ... (B, 8 c, 1, F)
        x = self.up[0](torch.cat([visual.unsqueeze(2), x], dim=1))  # (B, 8 c, 2, F)
        for layer, skip in zip(self.up[1:], reversed(skips[:-1]), strict=True):
            x = layer(torch.cat([x, skip], dim=1))
        return torch.tanh(x)


# --- The network -----------------------------------------------------------------------------------------------------


class VisualVoice(SeparationModel):
    """Mixture, one person's lips and a picture of their face to that person's voice.

    References: arXiv 2101.03149; code https://github.com/facebookresearch/VisualVoice (CC BY-NC 4.0).
    """

    def __init__(self, config: VisualVoiceConfig) -> None:
        video_encoder, config = encoder_for(config)
        super().__init__(config, lip_recipe=config.lip_recipe, keeps_level=True)
        c = config
        self.needs_faces = c.face_channels > 0
        self.video_encoder = video_encoder
        self.face_encoder = FaceEncoder(c.face_channels) if self.needs_faces else None
        self.unet = SpectrogramUNet(c.channels, c.face_channels + video_encoder.feature_dim)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(self, mixture: Tensor, lips: Tensor, faces: Tensor | None = None) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S), faces (B, 3, P, P) -> (B, 1, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        self.check_faces(mixture, faces)
        gain = self.gain(mixture)  # (B, 1)
        spectrum = self.analyse(mixture * gain)  # (B, 2, 256, 4 F')
        identity = None if self.face_encoder is None else self.face_encoder(faces)  # (B, C_f)
        masked = multiply_spectra(spectrum, self.mask(spectrum, lips, identity))
        masked = F.pad(masked, (0, 0, 0, 1))  # (B, 2, 257, 4 F')
        return (synthesise_spectrum(masked, self.window, N_FFT, HOP, mixture.shape[1]) / gain).unsqueeze(1)

    def gain(self, mixture: Tensor) -> Tensor:
        """Brings mixtures (B, T) to the level that the network is used to: (B, 1)."""
        return self.config.input_level / mixture.square().mean(1, keepdim=True).sqrt().clamp(min=QUIETEST)

    def analyse(self, sound: Tensor) -> Tensor:
        """Spectrogram of sounds (B, T), filled up with silence to four columns per frame: (B, 2, 256, 4 F')."""
        n_samples = sound.shape[1]
        n_frames = (n_samples // HOP + COLUMNS_PER_FRAME) // COLUMNS_PER_FRAME  # of 1 + n // HOP columns, rounded up
        filled = self.fit_length(sound, max(n_samples, (COLUMNS_PER_FRAME * n_frames - 1) * HOP))
        return analyse_spectrum(filled, self.window, N_FFT, HOP)[:, :, :ROWS]

    def mask(self, spectrum: Tensor, lips: Tensor, identity: Tensor | None) -> Tensor:
        """Complex mask of a mixture's spectrogram, (B, 2, 256, 4 F') both; identity: (B, C_f) of the faces."""
        visual = self._visual(lips, identity, spectrum.shape[3] // COLUMNS_PER_FRAME)
        return (self.config.mask_limit * self.unet(spectrum, visual)).to(spectrum.dtype)

    def _visual(self, lips: Tensor, identity: Tensor | None, n_frames: int) -> Tensor:
        """What the face and each frame of the lips tell, the last frame as often as needed: -> (B, C_v, n_frames)."""
        said = self.video_encoder(lips).mT[..., :n_frames]  # (B, C, F)
        said = F.pad(said, (0, n_frames - said.shape[-1]), mode="replicate")
        return said if identity is None else torch.cat([identity.unsqueeze(2).expand(-1, -1, n_frames), said], dim=1)


# --- Variants and the authors' keys ----------------------------------------------------------------------------------


@register_model(VisualVoice)
def visualvoice() -> VisualVoiceConfig:
    """The published model."""
    return VisualVoiceConfig()


@register_model(VisualVoice)
def visualvoice_lips() -> VisualVoiceConfig:
    """Lip motion alone, the paper's ablation: needs no pictures of faces."""
    return VisualVoiceConfig(face_channels=0)


def _unet_key(name: str) -> str:
    part, index, rest = name.split(".", 2)
    kind = "convlayer" if part == "down" else "upconvlayer"
    if part == "down" and int(index) >= 2:
        rest = f"conv.{rest}"
    if part == "up" and int(index) < 6:
        layer, parameter = rest.split(".")
        rest = f"up.{int(layer) + 1}.{parameter}"  # behind their layer that doubles the rows
    return f"audionet_{kind}{int(index) + 1}.{rest}"


def _face_key(name: str) -> str:
    name = re.sub(r"^conv\.", "conv1.", re.sub(r"^norm\.", "feature_extraction.1.", re.sub(r"^embed\.", "fc.", name)))
    name = re.sub(r"\bnorm(\d)", r"bn\1", re.sub(r"\bshortcut\b", "downsample", name))
    return re.sub(
        r"^blocks\.(\d+)",
        lambda block: "feature_extraction.{}.{}".format(*_stage_and_block(int(block[1]))),
        name,
    )


def _stage_and_block(index: int) -> tuple[int, int]:
    stage, block = divmod(index, BLOCKS_PER_STAGE)
    return stage + 4, block  # after convolution, norm, activation and pooling


_UNET = ReleasedFile("U-Net", within("unet.", _unet_key))
_LIPS = ReleasedFile(
    "lip reader", within("video_encoder.", shufflenet_tcn.released_key), ignored=shufflenet_tcn.IGNORED
)
_FACE = ReleasedFile("face encoder", within("face_encoder.", _face_key), ignored=("feature_extraction.0.weight",))

register_released("visualvoice", _UNET, _LIPS, _FACE)
register_released("visualvoice_lips", _UNET, _LIPS)
