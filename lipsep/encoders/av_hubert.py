"""AV-HuBERT's video branch, as a teacher: plain PyTorch, from a released fairseq checkpoint, without fairseq.

Shi et al., "Learning Audio-Visual Speech Representation by Masked Multimodal Cluster Prediction", ICLR 2022. Built from
the published code's description of its layers; not yet compared with its numbers, for want of the checkpoint. Licence
of the released weights: non-commercial research.

The checkpoint is a pickle that names classes of fairseq. `torch.load(weights_only=True)` reads it, with an inert
stand-in for every class that PyTorch does not know; none of the named things is imported or called.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders.resnet18_3d import ResNet18Lips, released_key
from lipsep.errors import WeightsError

HEAD_DIM = 64  # in both published sizes
LEGACY_PICKLES = 4  # of a torch file before version 1.6: magic number, protocol, machine, content
WRAPPER = "encoder.w2v_model."  # before the keys of models fine-tuned for lip reading


@dataclass(frozen=True)
class AVHubertConfig:
    """Sizes; the published large model by default."""

    channels: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096  # of the feed-forward networks
    norm_first: bool = True  # the base model normalises after each addition
    position_kernel: int = 128  # frames
    position_groups: int = 16


class RelativePlace(nn.Module):
    """Where a frame is, told by its neighbours: a grouped convolution over time. Shape: (B, F, C) -> (B, F, C)."""

    def __init__(self, c: AVHubertConfig) -> None:
        super().__init__()
        conv = nn.Conv1d(
            c.channels, c.channels, c.position_kernel, padding=c.position_kernel // 2, groups=c.position_groups
        )
        self.conv = nn.utils.parametrizations.weight_norm(conv, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.conv(x.mT)[..., : x.shape[1]]).mT  # an even kernel gives one frame too many


class SelfAttention(nn.Module):
    """Multi-head attention among frames. Shape: (B, F, C) -> (B, F, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, heads, F, C / heads)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Attention and a feed-forward network, each added. Shape: (B, F, C) -> (B, F, C)."""

    def __init__(self, c: AVHubertConfig) -> None:
        super().__init__()
        self.norm_first = c.norm_first
        self.self_attn = SelfAttention(c.channels, c.heads)
        self.self_attn_layer_norm = nn.LayerNorm(c.channels)
        self.fc1 = nn.Linear(c.channels, c.hidden)
        self.fc2 = nn.Linear(c.hidden, c.channels)
        self.final_layer_norm = nn.LayerNorm(c.channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.self_attn(self.self_attn_layer_norm(x))
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self.self_attn(x))
        return self.final_layer_norm(x + self._feed_forward(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class AVHubert(nn.Module):
    """What AV-HuBERT makes of lips without sound: its last layer's features.

    Shape: lips (B, F, 88, 88), normalised as `mouth_88` -> (B, F, channels).
    """

    def __init__(self, config: AVHubertConfig) -> None:
        super().__init__()
        self.config = c = config
        self.resnet = ResNet18Lips()
        self.video_proj = nn.Linear(self.resnet.feature_dim, c.channels)
        self.layer_norm = nn.LayerNorm(2 * c.channels)  # of sound and picture side by side
        self.post_extract_proj = nn.Linear(2 * c.channels, c.channels)
        self.place = RelativePlace(c)
        self.layers = nn.ModuleList(TransformerLayer(c) for _ in range(c.layers))
        self.encoder_norm = nn.LayerNorm(c.channels)

    def forward(self, lips: Tensor) -> Tensor:
        seen = self.video_proj(self.resnet(lips))  # (B, F, C)
        x = self.post_extract_proj(self.layer_norm(torch.cat([torch.zeros_like(seen), seen], -1)))
        x = x + self.place(x)
        if not self.config.norm_first:
            x = self.encoder_norm(x)
        for layer in self.layers:
            x = layer(x)
        return self.encoder_norm(x) if self.config.norm_first else x


def load_av_hubert(path: Path) -> AVHubert:
    """The network of a released checkpoint (`large_vox_433h.pt` or another, fine-tuned or not), in evaluation mode.

    Raises:
        WeightsError: no such file; damaged; it names code of the operating system; or a key is missing or misshapen.
    """
    content = _read_inertly(path)
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(f"'{path}' holds no entry 'model': a fairseq checkpoint of AV-HuBERT is needed")
    state = {key.removeprefix(WRAPPER): value for key, value in state.items()}
    model = AVHubert(_config_of(state, content, path))
    try:
        found = {name: state[avhubert_key(name)] for name in model.state_dict()}
        model.load_state_dict(found)
    except KeyError as error:
        raise WeightsError(f"'{path}' lacks the key {error} of AV-HuBERT: the checkpoint is another model's") from None
    except RuntimeError as error:
        raise WeightsError(f"'{path}' does not fit AV-HuBERT: {str(error).splitlines()[-1].strip()}") from None
    return model.eval()


def avhubert_key(name: str) -> str:
    """The checkpoint's key (without the wrapper of fine-tuned models) for one of `AVHubert`'s."""
    part, _, rest = name.partition(".")
    if part == "resnet":
        return f"feature_extractor_video.resnet.{released_key(rest)}"
    if part == "place":
        weight_norm = {
            "conv.parametrizations.weight.original0": "weight_g",
            "conv.parametrizations.weight.original1": "weight_v",
        }
        return "encoder.pos_conv.0." + weight_norm.get(rest, "bias")
    before = {
        "video_proj": "feature_extractor_video.proj",
        "layers": "encoder.layers",
        "encoder_norm": "encoder.layer_norm",
    }
    return f"{before.get(part, part)}.{rest}"


def _config_of(state: dict[str, Tensor], content: dict[str, Any], path: Path) -> AVHubertConfig:
    """The sizes that the tensors have; which way the norms stand is written in the settings, or told by the size."""
    try:
        hidden, channels = state["encoder.layers.0.fc1.weight"].shape
        groups_in, kernel = state["encoder.pos_conv.0.weight_v"].shape[1:]
    except (KeyError, ValueError, AttributeError):
        raise WeightsError(f"'{path}' has none of AV-HuBERT's layers: the checkpoint is another model's") from None
    numbers = [int(found[1]) for key in state if (found := re.match(r"encoder\.layers\.(\d+)\.", key))]
    settings = _setting(content, "model")
    pretraining = _setting(settings, "w2v_args")  # of fine-tuned models
    settings = _setting(pretraining, "model") or settings
    return AVHubertConfig(
        channels=channels,
        layers=max(numbers) + 1,
        heads=int(settings.get("encoder_attention_heads", channels // HEAD_DIM)),
        hidden=hidden,
        norm_first=bool(settings.get("layer_norm_first", channels >= 1024)),
        position_kernel=kernel,
        position_groups=channels // groups_in,
    )


def _setting(content: Any, name: str) -> dict[str, Any]:
    """A nested group of settings, {} where it is missing or of a class that was not read."""
    if not isinstance(content, dict):
        return {}
    settings = content.get("cfg", content)
    found = settings.get(name) if isinstance(settings, dict) else None
    return found if isinstance(found, dict) else {}


class _Unread:
    """Stands for an object of a class that is not needed; whatever a pickle does to it has no effect."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _read_inertly(path: Path) -> Any:
    """What a torch file holds, objects of foreign classes as `_Unread`."""
    if not path.is_file():
        raise WeightsError(f"there is no file '{path}': AV-HuBERT's weights are asked for at its authors' page")
    try:
        with torch.serialization.safe_globals([(_Unread, name) for name in _named_things(path)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for unsafe files
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "rror:" in line), lines[0]).strip()
        raise WeightsError(f"'{path}' is damaged or unsafe: {reason}") from error


def _named_things(path: Path) -> set[str]:
    """Classes and functions that the file's pickles name and PyTorch does not hold for safe; nothing is loaded."""
    if zipfile.is_zipfile(path):
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    with path.open("rb") as file:
        named = {name for _ in range(LEGACY_PICKLES) for name in _globals_of(file)}
    return named


def _globals_of(file: BinaryIO) -> set[str]:
    return {arg.replace(" ", ".") for op, arg, _ in pickletools.genops(file) if op.name == "GLOBAL"}
