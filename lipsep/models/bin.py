"""BIN: a bottleneck of fusion tokens, refined over iterations, that separates everyone at once in noise.

"Audio-Visual Speech Separation via Bottleneck Iterative Network", arXiv 2507.07270. Checked against golden tensors of
the published code: BIN/12 with intermediates, BIN/8, and the five networks of its ablations.

Published figures (Table 2; 2 s, two voices, precomputed latents): 42.95, 63.58 and 84.22 G MACs for 8, 12 and 16
iterations, and 6.05 M parameters. The tensors hold 6,889,107: thop, which the authors counted with, asks only layers
that it knows, and so saw neither the two fusion tokens (819,712) nor the gains and biases of the authors' own norm
(21,504); tests/models/test_bin.py recounts both. Here coarse maps are mapped before they are stretched
(layers/afrcnn.py): the same output for about two thirds of the multiplications.

Where paper and code differ, this file follows the code, because released weights need it:
- the tokens are matrices of 256 x 1,601, as long as 2 s of encoded sound. Longer sound stretches them (the 4 s of
  NTCD-TIMIT too), shorter sound, at which the published code stops, shrinks them by the same nearest-neighbour rule;
- the states of both branches are added, not concatenated, before the masks;
- "no c" of Table 3 lets each branch keep its own tokens; the network without tokens exists too (`fusion`).
The published network takes latents from a frozen autoencoder, written to disk beforehand; here the encoder is part of
the model, and `separate` takes latents.

Sequences are stored (B, T, C) throughout; see layers/channels_last.py.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import autoencoder, encoder_for
from lipsep.errors import ModelError
from lipsep.kernels.memory_saving import rerun
from lipsep.kernels.stretching import stretch_to
from lipsep.layers.afrcnn import AFRCNN, Adapt, packed_once, released_afrcnn_key, released_global_norm_key
from lipsep.layers.channels_last import GlobalNorm
from lipsep.layers.filterbank import FilterbankDecoder, FilterbankEncoder
from lipsep.layers.masks import ReLUMasks
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model
from lipsep.models.released import ReleasedFile, register_released, within

FUSIONS = ("tokens", "audio_token", "video_token", "own_tokens", "no_tokens", "early")
"""What the branches hear of each other: the mean of both tokens (BIN); the audio branch's alone (no c^V in Table 3);
the video branch's alone (no c^A); nothing, each branch its own tokens (no c); nothing, and there are no tokens; or one
branch for both modalities side by side (no bottleneck)."""
KEPT_ITERATIONS = 10
"""The last ones: where the backward pass reaches those before, their memory is free again."""


@dataclass(frozen=True)
class BINConfig:
    """Sizes of a BIN. Defaults are the published BIN/12; letters are the paper's symbols."""

    n_src: int = 2  # M, voices at once, one picture stream for each
    iterations: int = 12  # R, passes through the shared branches
    audio_channels: int = 512  # filters of the encoder and decoder
    kernel: int = 40  # samples; the stride is half of it
    channels: int = 128  # of the states, both branches
    token_channels: int = 256  # of the fusion tokens c
    token_steps: int = 1601  # of the learned first tokens: 2 s of encoded sound
    audio_hidden: int = 512  # inside the audio block
    video_hidden: int = 128  # inside the video block
    n_scales: int = 5  # time resolutions in either block
    fusion: str = "tokens"  # or an ablation, see `FUSIONS`
    recompute: bool = True  # training keeps the activations of the last `KEPT_ITERATIONS` alone: less memory, more time
    video_encoder: str = "autoencoder_1024"  # a registered video encoder
    lip_size: int | None = None  # pixels; None: what the video encoder was made for
    lip_recipe: str | None = None  # how lip pictures are made (lipsep.lips.reading); None: likewise

    def __post_init__(self) -> None:
        if min(self.n_src, self.iterations, self.token_steps, self.n_scales - 1) < 1 or self.kernel % 2:
            raise ModelError(
                "n_src, iterations and token_steps must be at least 1, n_scales at least 2, kernel even; got "
                f"{self.n_src}, {self.iterations}, {self.token_steps}, {self.n_scales}, {self.kernel}"
            )
        if self.fusion not in FUSIONS:
            raise ModelError(f"unknown fusion '{self.fusion}'; known: {', '.join(FUSIONS)}")


@dataclass(frozen=True)
class Iterate:
    """What BIN would answer after so many iterations: estimates (B, n_src, T), masks (B, n_src, T', N) >= 0."""

    estimates: Tensor
    masks: Tensor


class Branch(nn.Module):
    """One pass of a modality through its A-FRCNN block, together with the fusion tokens (Eq. 1 and 2).

    Shape: x (B, T, C), tokens (B, T, C_c) or None -> the new state (B, T, C) and tokens (B, T, C_c).
    """

    def __init__(self, channels: int, token_channels: int, hidden: int, n_scales: int) -> None:
        super().__init__()
        self.sizes = [channels, token_channels]
        self.adapt = Adapt(channels)
        self.adapt_all = Adapt(sum(self.sizes)) if token_channels else None
        self.block = AFRCNN(sum(self.sizes), hidden, sum(self.sizes), n_scales)

    def forward(self, x: Tensor, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.adapt(x)
        if self.adapt_all is not None:
            x = self.adapt_all(torch.cat([x, tokens], dim=-1))  # (B, T, C + C_c)
        return self.block(x).split(self.sizes, dim=-1)


class BottleneckFusion(nn.Module):
    """Audio and video refine their states in turn and exchange tokens, over and over with the same weights.

    Shape: audio (B, T, C), video (B, T, C) -> features (B, T, C) after each iteration.
    """

    def __init__(self, config: BINConfig) -> None:
        super().__init__()
        c = config
        n_tokens = 0 if c.fusion == "no_tokens" else c.token_channels
        for name, unused in (("audio_token", "video_token"), ("video_token", "audio_token")):
            learned = n_tokens and c.fusion != unused
            self.register_parameter(name, nn.Parameter(torch.rand(n_tokens, c.token_steps)) if learned else None)
        self.audio_branch = Branch(c.channels, n_tokens, c.audio_hidden, c.n_scales)
        self.video_branch = Branch(c.channels, n_tokens, c.video_hidden, c.n_scales)
        self.fusion, self.recompute = c.fusion, c.recompute

    def forward(self, audio: Tensor, video: Tensor, iterations: int) -> Iterator[Tensor]:
        heard, seen = torch.zeros_like(audio), torch.zeros_like(video)
        tokens = tuple(self._first(token, audio) for token in (self.audio_token, self.video_token))
        for index in range(iterations):
            again = self.recompute and index < iterations - KEPT_ITERATIONS
            heard, seen, *tokens = rerun(again, self._iterate, audio, video, heard, seen, *tokens)
            yield heard + seen

    def _first(self, token: Tensor | None, audio: Tensor) -> Tensor | None:
        """A learned token for every recording, as long as the sound. -> (B, T, C_c)"""
        if token is None:
            return None
        return stretch_to(token.t().unsqueeze(0), audio.shape[1]).expand(len(audio), -1, -1)

    def _iterate(
        self, audio: Tensor, video: Tensor, heard: Tensor, seen: Tensor, audio_c: Tensor | None, video_c: Tensor | None
    ) -> tuple[Tensor, ...]:
        if self.fusion == "tokens":
            audio_c = video_c = (audio_c + video_c) / 2
        elif self.fusion == "audio_token":
            video_c = audio_c
        elif self.fusion == "video_token":
            audio_c = video_c
        heard, audio_c = self.audio_branch(audio + heard, audio_c)
        seen, video_c = self.video_branch(video + seen, video_c)
        return heard, seen, audio_c, video_c


class EarlyFusion(nn.Module):
    """The ablation without a bottleneck: one branch, as wide as both, on audio and video side by side.

    Shape: audio (B, T, C), video (B, T, C) -> features (B, T, 2 C) after each iteration.
    """

    def __init__(self, config: BINConfig) -> None:
        super().__init__()
        hidden = config.audio_hidden + config.video_hidden
        self.fusion_branch = Branch(2 * config.channels, 0, hidden, config.n_scales)
        self.recompute = config.recompute

    def forward(self, audio: Tensor, video: Tensor, iterations: int) -> Iterator[Tensor]:
        both = torch.cat([audio, video], dim=-1)  # (B, T, 2 C)
        state = torch.zeros_like(both)
        for index in range(iterations):
            again = self.recompute and index < iterations - KEPT_ITERATIONS
            state = rerun(again, self._iterate, both, state)
            yield state

    def _iterate(self, both: Tensor, state: Tensor) -> Tensor:
        return self.fusion_branch(both + state, None)[0]


class BIN(SeparationModel):
    """Mixture and `n_src` people's lips to their voices; voice k belongs to face k, so no permutation is searched.

    References: arXiv 2507.07270.
    """

    faces_at_once = True
    dead_parameters = ("video_encoder.decoder.*",)

    def __init__(self, config: BINConfig) -> None:
        video_encoder, config = encoder_for(config)
        super().__init__(config, lip_recipe=config.lip_recipe)
        c = config
        self.iterations = c.iterations
        self.video_encoder = video_encoder
        self.video_bottleneck = nn.Linear(c.n_src * video_encoder.feature_dim, c.channels)
        self.audio_encoder = FilterbankEncoder(c.audio_channels, c.kernel, c.kernel // 2, c.kernel // 2)
        self.audio_norm = GlobalNorm(c.audio_channels, eps=1e-8)
        self.audio_bottleneck = nn.Linear(c.audio_channels, c.channels)
        early = c.fusion == "early"
        self.fusion = EarlyFusion(c) if early else BottleneckFusion(c)
        self.masks = ReLUMasks(c.channels * (1 + early), c.audio_channels, c.n_src)
        self.audio_decoder = FilterbankDecoder(
            c.audio_channels, c.kernel, c.kernel // 2, c.kernel // 2, more=c.kernel // 2 - 1
        )

    @property
    def iterations(self) -> int:
        """Passes through the shared branches, R; may be set at any time to 1 or more."""
        return self._iterations

    @iterations.setter
    def iterations(self, number: int) -> None:
        if number < 1:
            raise ModelError(f"got {number} iterations; {self.name} needs at least 1")
        self._iterations = number

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, n_src, F, S, S) -> (B, n_src, T)."""
        return self.separate(mixture, self.encode_lips(mixture, lips))

    def encode_lips(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Latents, as `separate` takes them: lips (B, n_src, F, S, S) -> (B, n_src, F, feature_dim)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        return self.video_encoder(lips.flatten(0, 1)).unflatten(0, lips.shape[:2])

    def separate(self, mixture: Tensor, latents: Tensor) -> Tensor:
        """Shape: mixture (B, T), latents (B, n_src, F, feature_dim) -> (B, n_src, T)."""
        encoded, audio, video = self._embed(mixture, latents)
        with packed_once(self.fusion):
            features = deque(self.fusion(audio, video, self.iterations), maxlen=1).pop()  # the last, (B, T', C)
        return self._decode(self.masks(features, encoded), mixture.shape[1])

    def iterates(self, mixture: Tensor, lips: Tensor) -> Iterator[Iterate]:
        """What `forward` would answer after each iteration: mixture (B, T), lips (B, n_src, F, S, S)."""
        encoded, audio, video = self._embed(mixture, self.encode_lips(mixture, lips))
        for features in self.fusion(audio, video, self.iterations):
            masks = self.masks.values(features)  # (B, n_src, T', N)
            yield Iterate(self._decode(masks * encoded.unsqueeze(1), mixture.shape[1]), masks)

    def _embed(self, mixture: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> the encoded mixture (B, T', N), audio (B, T', C), video (B, T', C)"""
        multiple = math.lcm(self.config.kernel // 2, 2**self.config.n_scales)
        encoded = self.audio_encoder(F.pad(mixture, (0, -mixture.shape[1] % multiple)))  # (B, T', N)
        audio = self.audio_bottleneck(self.audio_norm(encoded))  # (B, T', C)
        video = self.video_bottleneck(latents.transpose(1, 2).flatten(2))  # (B, F, C)
        return encoded, audio, stretch_to(video, audio.shape[1])

    def _decode(self, masked: Tensor, n_samples: int) -> Tensor:
        return self.fit_length(self.audio_decoder(masked), n_samples)  # (B, n_src, T)


# --- Released weights ------------------------------------------------------------------------------------------------


def released_key(name: str) -> str | None:
    """The key of the authors' separator for one of our state-dict keys; None for the video encoder's."""
    part, _, rest = name.removeprefix("fusion.").partition(".")
    if part == "video_encoder":
        return None
    if part.endswith("_branch"):
        layer, _, rest = rest.partition(".")
        if layer == "block":
            return f"{part}.afrcnn_block.{released_global_norm_key(released_afrcnn_key(rest))}"
        return f"{part}.{'adapt_audio' if layer == 'adapt' else 'adapt_fusion'}.{rest}"
    if part == "masks":
        return f"mask_net.{rest.replace('act', '0').replace('linear', '1')}"
    return released_global_norm_key(name.removeprefix("fusion."))


UNUSED_KEYS = ("*_token", "*_branch.adapt_fusion.*")
"""Of the authors' ablations: what their networks hold and never use (the tokens of a branch that nobody hears)."""
RELEASED_FILES = (
    ReleasedFile("separator", released_key, ignored=UNUSED_KEYS),
    ReleasedFile("video encoder", within("video_encoder.", autoencoder.released_key)),
)


def _released_settings(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Their mask network tells for how many voices the weights are."""
    rows = [tensor.shape[0] for key, tensor in state.items() if key.endswith("mask_net.1.weight")]
    return {"n_src": rows[0] // BINConfig.audio_channels} if rows else {}


for _name in ("bin_8", "bin_12", "bin_16"):
    register_released(_name, *RELEASED_FILES, settings=_released_settings)


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(BIN)
def bin_8() -> BINConfig:
    """Eight iterations."""
    return BINConfig(iterations=8)


@register_model(BIN)
def bin_12() -> BINConfig:
    """Twelve iterations: the best of the paper on LRS3 with WHAM! noise."""
    return BINConfig()


@register_model(BIN)
def bin_16() -> BINConfig:
    """Sixteen iterations: the best of the paper on NTCD-TIMIT."""
    return BINConfig(iterations=16)


@register_model(BIN)
def bin_test() -> BINConfig:
    """Everything that the published model has, tiny, for tests."""
    return BINConfig(
        iterations=3, audio_channels=32, channels=16, token_channels=8, token_steps=201, audio_hidden=16,
        video_hidden=8, n_scales=3, lip_size=32, lip_recipe="mesh_32",
    )  # fmt: skip
