"""The contract that every video encoder keeps, and the register of encoders."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lipsep.errors import ModelError


class VideoEncoder(nn.Module):
    """Lip pictures to one feature vector per video frame.

    Shape: lips (B, F, S, S) grey, normalised as the recipe says -> features (B, F, feature_dim).

    Attributes:
        feature_dim: length of a frame's feature vector.
        lip_size: S, px.
        lip_recipe: how the pictures are made (`lipsep.lips.reading`); a separator takes it over as its own.
        lookahead_frames: a picture's features depend on this many later ones, and as many earlier; None: on more.
    """

    feature_dim: int
    lip_size: int
    lip_recipe: str
    lookahead_frames: int | None = None

    def forward(self, lips: Tensor) -> Tensor:
        raise NotImplementedError


_ENCODERS: dict[str, Callable[..., VideoEncoder]] = {}


def register_encoder(name: str, factory: Callable[..., VideoEncoder]) -> None:
    """Register a class (or a partial of it) under a name; its keyword arguments are the encoder's settings."""
    if name in _ENCODERS:
        raise ModelError(f"a video encoder named '{name}' is already registered: choose another name")
    _ENCODERS[name] = factory


def list_encoders() -> list[str]:
    """Names of the registered video encoders, sorted."""
    return sorted(_ENCODERS)


def create_encoder(name: str, **settings: Any) -> VideoEncoder:
    """A freshly initialised video encoder in training mode.

    Raises:
        ModelError: the name or a setting is unknown; the message lists the valid ones.
    """
    if name not in _ENCODERS:
        raise ModelError(f"unknown video encoder '{name}'; known: {', '.join(list_encoders())}")
    valid = inspect.signature(_ENCODERS[name]).parameters
    if unknown := sorted(set(settings) - set(valid)):
        raise ModelError(f"'{name}' has no setting {', '.join(map(repr, unknown))}; it has: {', '.join(valid)}")
    return _ENCODERS[name](**settings)


def encoder_for(config: Any) -> tuple[VideoEncoder, Any]:
    """The video encoder that a separator's frozen configuration names, and the configuration made to agree with it.

    Args:
        config: a dataclass with `video_encoder`, a registered name, and `lip_size` and `lip_recipe`, which are handed
            to the encoder, or None for what it was made for.

    Returns:
        The encoder, and a copy of `config` with the encoder's own `lip_size` and `lip_recipe`.
    """
    wanted = {"lip_size": config.lip_size, "lip_recipe": config.lip_recipe}
    settings = {name: value for name, value in wanted.items() if value is not None}
    encoder = create_encoder(config.video_encoder, **settings)
    return encoder, dataclasses.replace(config, lip_size=encoder.lip_size, lip_recipe=encoder.lip_recipe)
